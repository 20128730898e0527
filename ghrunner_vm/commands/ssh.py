"""`ghvm ssh`: enter the guest of a live run."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import click

from ghrunner_vm import app, config, process
from ghrunner_vm.commands.options import state_option
from ghrunner_vm.console import Console
from ghrunner_vm.errors import UsageError
from ghrunner_vm.files import in_memory, write_atomically
from ghrunner_vm.ledger import Entry
from ghrunner_vm.lifecycle.asking import ask
from ghrunner_vm.lifecycle.control import OpenSsh
from ghrunner_vm.lifecycle.ssh import command, host_key
from ghrunner_vm.units import parse_port

_FAILED = 255  # what ssh(1) exits with for its own errors
_DEFAULT_USER = "runner"


class _SplitAtDashes(click.Command):
    """What stands behind `--` is a command for the guest, although RUN may be left out."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        at = args.index("--") if "--" in args else len(args)
        ctx.meta["words"] = tuple(args[at + 1 :])
        return super().parse_args(ctx, args[:at])


@click.command(cls=_SplitAtDashes, options_metavar="[OPTIONS] [RUN] [-- COMMAND…]")
@click.argument("run", required=False, metavar="")
@click.option(
    "--user", metavar="NAME", help=f"Whom to log in as.  [default: {_DEFAULT_USER}, if the image has an agent]"
)
@state_option
@click.pass_context
def ssh(context: click.Context, run: str | None, user: str | None, state_dir: Path | None) -> None:
    """Enter the guest of RUN, or of the only live run, or carry out COMMAND there.

    The guest of an image with an agent lets in a key that was made for this run, and its host key is the one that its
    agent told before the job began. Other images have users of their own (--user), whose keys or passwords you need;
    their host key is accepted at the first time. The image must run an SSH server. The exit code is that of ssh.

    \b
    Examples:
      ghvm ssh
      ghvm ssh ubuntu-24-04-vm-1f2e3d4c -- df -h
    """
    console = Console()
    settings = config.load({"state_dir": state_dir})
    entry = app.ledger(settings).find_live(run)
    pinned = None if entry.record.ssh_host_key is None else host_key(entry.record.ssh_host_key)
    if pinned is None and user is None:
        raise UsageError(
            f"the guest of {entry.id} has told no SSH host key",
            details="Its image has no agent or no SSH server, or it is still booting.",
            resolution="If it has an SSH server, name one of its users with --user.",
        )
    answer = ask(config.runtime_directories(settings), entry.id, OpenSsh(do="ssh"), seconds=20)
    if pinned is None:
        console.warn("the guest's host key is not known: the first one it shows is accepted for this run")
    words = context.meta["words"]
    port = parse_port(answer.get("port"))
    with _known_hosts(entry, pinned) as known:
        argv = command(entry.path, known, entry.id, port, user or _DEFAULT_USER, pinned=pinned is not None, words=words)
        code = process.foreground(argv)
    if code == _FAILED:
        console.warn(f"ssh failed. If the guest does not answer, see `ghvm logs {entry.id}`: does its image run sshd?")
    raise click.exceptions.Exit(code)


@contextlib.contextmanager
def _known_hosts(entry: Entry, pinned: str | None) -> Iterator[Path]:
    path = entry.path / "known_hosts"
    if pinned is None:
        yield path  # for ssh to write to
        return
    line = f"{entry.id} {pinned}\n".encode()
    with contextlib.ExitStack() as stack:
        try:
            write_atomically(path, line)
        except OSError:  # a full disk is what people enter a guest for
            path = stack.enter_context(in_memory(line))
        yield path
