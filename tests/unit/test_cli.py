"""The command line as a person meets it: in a process of its own."""

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from subprocess import CompletedProcess, run  # noqa: TID251 streams and exit code are tested

import click
import pytest

from ghrunner_vm import __version__
from ghrunner_vm.cli import cli

HEAVY = ("requests", "rich", "pydantic", "starlette", "uvicorn", "jwt", "cryptography", "qemu", "asyncio")
FAULTY = """
import errno, sys, types
import click
from ghrunner_vm import cli
from ghrunner_vm.errors import PermanentError

@click.command()
@click.argument("kind")
@click.option("--log-format")
def faulty(kind, log_format):
    raise {
        "ours": PermanentError("it [bold]broke[/]", details="for a reason", resolution="mend it"),
        "unforeseen": ValueError("nobody thought of it"),
        "system": OSError(errno.EROFS, "Read-only file system", "/some/file"),
        "full": OSError(errno.ENOSPC, "No space left on device", "/some/file"),
        "interrupt": KeyboardInterrupt(),
        "abort": click.Abort(),
    }[kind]

module = types.ModuleType("ghrunner_vm.commands.faulty")
module.faulty = faulty
sys.modules[module.__name__] = module
cli._COMMANDS["faulty"] = ("faulty", "faulty", "Fails.")
cli.main()
"""


def python(*words: str, env: Mapping[str, str] | None = None) -> "CompletedProcess[str]":
    environment = {**os.environ, "NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "120", **(env or {})}
    return run([sys.executable, *words], capture_output=True, text=True, timeout=60, env=environment, check=False)


def ghvm(*words: str) -> "CompletedProcess[str]":
    return python("-m", "ghrunner_vm", *words)


def fail(*words: str, env: Mapping[str, str] | None = None) -> "CompletedProcess[str]":
    return python("-c", FAULTY, *words, env=env)


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["--version"]])
def test_the_help_needs_nothing_heavy(words: list[str]) -> None:
    script = (
        "import sys\nfrom ghrunner_vm import cli\n"
        f"try:\n    cli.main({words!r})\nexcept SystemExit:\n    pass\n"
        f"print('LOADED', *(name for name in {HEAVY!r} if name in sys.modules))"
    )
    assert python("-c", script).stdout.splitlines()[-1].split() == ["LOADED"]


def test_the_help_names_every_command_and_every_exit_code() -> None:
    done = ghvm("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for word in ("run", "gc", "images", "serve-images", "sim", "demo"):
        assert f"\n  {word} " in done.stdout
    assert "124 job timeout; 130 interrupted" in " ".join(done.stdout.split())


def test_every_command_has_help() -> None:
    from ghrunner_vm.cli import _COMMANDS

    for name in _COMMANDS:
        done = ghvm(name, "--help")
        assert (done.returncode, done.stderr) == (0, ""), name
        assert done.stdout.startswith(f"Usage: python -m ghrunner_vm {name} ")


def commands(command: click.Command, *words: str) -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield " ".join(words), command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None
        yield from commands(found, *words, name)


@pytest.mark.parametrize(("name", "command"), list(commands(cli)), ids=[name for name, _ in commands(cli)])
def test_each_help_has_a_summary_an_example_and_the_defaults(name: str, command: click.Command) -> None:
    text = f"{command.help}{command.epilog or ''}"
    assert re.search(rf"Examples?:\n +(sudo )?ghvm {name}\b", text) or name == "images pull"
    assert text[0].isupper()
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help, option.name
            told = option.show_default or "[default: " in option.help
            assert told or option.is_flag or not isinstance(option.default, str | int | float), option.name


def test_the_version() -> None:
    assert ghvm("--version").stdout == f"ghvm, version {__version__}\n"


@pytest.mark.parametrize("words", [["no-such-command"], ["--no-such-option"], ["run"], ["run", "a", "b"], []])
def test_a_wrong_command_line_is_exit_code_2(words: list[str]) -> None:
    done = ghvm(*words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Usage:" in done.stderr


def test_an_error_has_three_parts_and_its_exit_code() -> None:
    done = fail("faulty", "ours")
    assert done.returncode == 5
    assert done.stdout == ""
    assert done.stderr == "error: it [bold]broke[/]\nfor a reason\n→ mend it\n"


def test_an_error_for_machines() -> None:
    done = fail("faulty", "ours", "--log-format", "json")
    assert done.stderr == (
        '{"level": "error", "message": "it [bold]broke[/]", '
        '"details": "for a reason", "resolution": "mend it", "exit-code": 5}\n'
    )
    assert fail("faulty", "ours", "--log-format=json").stderr == done.stderr
    assert fail("faulty", "ours", "--log-format=text", "--log-format", "json").stderr == done.stderr
    assert fail("faulty", "ours", "--log-format", "json", "--log-format=text").stderr.startswith("error: ")


def test_what_nobody_foresaw_shows_no_traceback() -> None:
    done = fail("faulty", "unforeseen")
    assert done.returncode == 1
    assert "unexpected ValueError: nobody thought of it" in done.stderr
    assert "--debug" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("kind", ["unforeseen", "ours", "system"])
def test_debug_shows_the_traceback(kind: str) -> None:
    done = fail("--debug", "faulty", kind)
    assert "Traceback (most recent call last)" in done.stderr
    assert "error: " in done.stderr


def test_a_full_disk_is_named_and_may_be_mended() -> None:
    done = fail("faulty", "full")
    assert done.returncode == 4
    assert "error: the disk is full (/some/file)\n" in done.stderr


def test_a_fault_of_the_system_names_the_file() -> None:
    done = fail("faulty", "system")
    assert done.returncode == 1
    assert "error: Read-only file system (/some/file)\n" in done.stderr


def test_a_wrong_command_line_for_machines() -> None:
    done = fail("faulty", "ours", "--log-format", "json", "--no-such-option")
    assert done.returncode == 2
    told = json.loads(done.stderr)
    assert (told["level"], told["exit-code"]) == ("error", 2)
    assert "--no-such-option" in told["message"]


@pytest.mark.parametrize(("words", "code"), [(["full"], 4), (["full", "--no-such-option"], 2)])
def test_the_environment_may_ask_for_json(words: list[str], code: int) -> None:
    done = fail("faulty", *words, env={"GHVM_LOG_FORMAT": "json"})
    assert done.returncode == code
    assert json.loads(done.stderr)["exit-code"] == code


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_the_exit_code_stands_though_nobody_reads_the_error(log_format: str) -> None:
    read, write = os.pipe()
    os.close(read)
    # Unbuffered, nothing would be left to write when Python ends.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    try:
        argv = [sys.executable, "-c", FAULTY, "faulty", "ours", "--log-format", log_format]
        assert run(argv, stderr=write, timeout=60, env=environment, check=False).returncode == 5
    finally:
        os.close(write)


@pytest.mark.parametrize("kind", ["interrupt", "abort"])
def test_ctrl_c_is_exit_code_130(kind: str) -> None:
    done = fail("faulty", kind)
    assert done.returncode == 130
    assert "Traceback" not in done.stderr


def test_a_spec_that_is_not_there(tmp_path: Path) -> None:
    done = ghvm("run", str(tmp_path / "missing.json"), "--github-org", "demo-org")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "missing.json" in done.stderr


STALLED = """
import click
from ghrunner_vm import cli
from ghrunner_vm.console import Console

@click.command()
def chatty():
    console = Console("json")
    with console.from_a_thread():
        for _ in range(3000):
            console.say("x" * 1000)

cli._LazyGroup.get_command = lambda *_: chatty
cli.main(["chatty"])
"""


def test_a_reader_of_stderr_that_stalls_does_not_keep_the_process() -> None:
    """The pipe stays open and full: the process ends all the same, with its own exit code."""
    read, write = os.pipe()
    try:
        assert run([sys.executable, "-c", STALLED], stderr=write, timeout=60, check=False).returncode == 0
    finally:
        os.close(write)
        os.close(read)
