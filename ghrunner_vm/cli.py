"""The `ghvm` command: subcommands that load when they are used, global options, and the only error boundary."""

import importlib
import itertools
import logging
import os
import sys
import threading
from collections.abc import Sequence
from typing import Literal, NoReturn

import click

from ghrunner_vm import __version__
from ghrunner_vm.errors import ExitCode, GhvmError, UsageError, told

NARRATION = "narration"
"""The name of the thread that narrates: see Console.from_a_thread."""

# Module and attribute of each command with its line in the help, so that the help imports none of them.
_SECTIONS = {
    "Runs": {
        "run": ("run", "run", "Run one job in one virtual machine."),
        "ps": ("ps", "ps", "Show the runs of this host."),
        "history": ("history", "history", "Show the runs that are over."),
        "why": ("why", "why", "Say what became of a run, and what to do."),
        "logs": ("logs", "logs", "Show what a run, its guest and its runner said."),
        "ssh": ("ssh", "ssh", "Enter the guest of a run."),
        "stop": ("stop", "stop", "Stop runs, without losing a job."),
        "gc": ("gc", "gc", "Remove what dead runs left."),
    },
    "GitHub": {
        "token": ("token", "token", "Try whether runners can be registered, and as whom."),
        "runners": ("runners", "runners", "See and clear up what is registered."),
    },
    "Images": {
        "images": ("images", "images", "Fetch, show, sign and publish images."),
        "serve-images": ("serve_images", "serve_images", "Serve a directory of images."),
    },
    "Setup": {
        "doctor": ("doctor", "doctor", "Check this host, GitHub and the image server."),
        "config": ("config", "config", "Show, check and write the settings."),
        "spec": ("spec", "spec", "Check specs, and describe them to editors."),
        "completion": ("completion", "completion", "Let the shell complete commands and options."),
        "systemd": ("systemd", "systemd", "Keep a runner on this host as a service."),
    },
    "Try it": {
        "demo": ("demo", "demo", "Show the main job on this host, without KVM and without GitHub."),
        "sim": ("sim", "sim", "A GitHub to try things with, on loopback."),
    },
}
_COMMANDS = {name: command for section in _SECTIONS.values() for name, command in section.items()}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 click's interface
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 click's interface
        if cmd_name not in _COMMANDS:
            return None
        module, attribute, _ = _COMMANDS[cmd_name]
        command = getattr(importlib.import_module(f"ghrunner_vm.commands.{module}"), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{cmd_name} is no command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 click's interface
        for title, commands in _SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, line) for name, (_, _, line) in commands.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show tracebacks and every program that is started.")
@click.version_option(__version__, prog_name="ghvm")
@click.pass_context
def cli(context: click.Context, debug: bool) -> None:
    """GitHub Actions jobs on your own hosts, a fresh virtual machine for each.

    Exit codes: 0 the job finished or a clean drain; 1 error; 2 usage; 3 the virtual machine did not come up;
    4 infrastructure (disk full, image server or GitHub unreachable); 5 permanent until a person acts;
    124 job timeout; 130 interrupted.
    """
    context.meta["debug"] = debug
    if debug:
        logging.basicConfig(level=logging.DEBUG, format="%(name)s: %(message)s")
        for chatty in ("urllib3", "asyncio"):
            logging.getLogger(chatty).setLevel(logging.INFO)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit. Nothing but `--debug` shows a traceback."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = cli.main(words, standalone_mode=False, complete_var="_GHVM_COMPLETE")
    except click.exceptions.Exit as exit_:
        code = exit_.exit_code
    except click.ClickException as error:
        code = _misused(error, words)
    except (click.Abort, KeyboardInterrupt):
        code = ExitCode.INTERRUPTED
    except Exception as error:  # noqa: BLE001 the boundary
        code = _report(error, words)
    if _nobody_reads():
        os._exit(int(code or 0))  # the interpreter's own end would wait for the reader of stderr
    _flush_narration()
    sys.exit(int(code or 0))


def _nobody_reads() -> bool:
    """Whether the narration is stuck in a terminal or pipe that takes no more."""
    return any(thread.name == NARRATION and thread.is_alive() for thread in threading.enumerate())


def _flush_narration() -> None:
    # Python tries once more while it ends, and turns the exit code into 120 if nobody reads.
    try:
        sys.stderr.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(nowhere, sys.stderr.fileno())
        os.close(nowhere)


def _report(error: Exception, words: Sequence[str]) -> ExitCode:
    """Print an error in its three parts."""
    from ghrunner_vm.console import Console

    if "--debug" in words:
        logging.getLogger(__name__).debug("traceback", exc_info=error)
    known = told(error)
    if not _nobody_reads():
        Console(_log_format(words)).error(known)
    return known.exit_code


def _misused(error: click.ClickException, words: Sequence[str]) -> int:
    from ghrunner_vm.console import Console  # the help needs no rich

    if (log_format := _log_format(words)) == "json":
        Console(log_format).error(UsageError(error.format_message()))
    else:
        error.show()
    return error.exit_code


def _log_format(words: Sequence[str]) -> Literal["text", "json"]:
    """What the words ask for, the last ones first, else what the environment and the configuration say."""
    for word, value in reversed(list(itertools.pairwise([*words, ""]))):
        match word.split("=", 1) if "=" in word else [word, value]:
            case ["--log-format", ("text" | "json") as asked]:
                return asked
    from ghrunner_vm import config  # the help needs no pydantic

    try:
        return config.load({}).log_format
    except GhvmError:
        return "text"
