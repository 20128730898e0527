"""`ghvm systemd`: the unit that keeps a runner on a host."""

import os
import re
import sys
from pathlib import Path

import click

from ghrunner_vm import unit
from ghrunner_vm.commands.writing import write_for_all
from ghrunner_vm.console import Console
from ghrunner_vm.errors import PermanentError, UsageError

_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108 that they are not used is the point
_AS_ROOT = "Run it as root (sudo ghvm systemd --install), or choose another place with --directory."


@click.command()
@click.option("--install", is_flag=True, help=f"Write {unit.DIRECTORY}/{unit.NAME} instead of printing it.")
@click.option("--force", is_flag=True, help="Replace a unit of other content.")
@click.option("--user", metavar="NAME", help="Run as this user instead of root.")
@click.option("--firecracker", is_flag=True, help="Let it use Firecracker's jailer as well, which takes more rights.")
@click.option("--token", is_flag=True, help="Use the token in /etc/ghvm/token instead of a GitHub App.")
@click.option(
    "--directory", type=click.Path(path_type=Path, file_okay=False), default=unit.DIRECTORY, metavar="DIR",
    help=f"Where --install writes.  [default: {unit.DIRECTORY}]",
)  # fmt: skip
def systemd(install: bool, force: bool, user: str | None, firecracker: bool, token: bool, directory: Path) -> None:
    """Print or install the unit `ghvm@NAME.service`, which runs the spec /etc/ghvm/NAME.json again and again.

    As root each machine gets a user of its own, so prefer that. With --user all machines run as one user, who must be
    in the group that owns /dev/kvm. The settings come from /etc/xdg/ghvm/config.toml, the App's key from
    /etc/ghvm/app.pem, or with --token a token from /etc/ghvm/token. docs/service.md tells how it stops, and how far it
    is closed.

    \b
    Example:
      sudo ghvm systemd --install
      sudo systemctl daemon-reload
      sudo systemctl enable --now ghvm@ubuntu
    """
    if user is not None and not _USER.fullmatch(user):
        raise UsageError(f"--user: {user!r} is no name of a user")
    if user is not None and firecracker:
        raise UsageError("--firecracker: only root can use its jailer", resolution="Leave --user out.")
    console = Console()
    executable = _executable()
    text = unit.unit(executable, user, token=token, firecracker=firecracker)
    if str(executable).startswith(_HIDDEN):
        console.warn(f"the unit cannot see {executable}: install ghvm below /opt or /usr/local")
    if not install:
        console.result(text.rstrip("\n"))
        return
    _write(directory / unit.NAME, text, force=force)
    console.result(str(directory / unit.NAME))
    console.say(
        "next: systemctl daemon-reload && systemctl enable --now ghvm@NAME, where /etc/ghvm/NAME.json is a spec"
    )


def _executable() -> Path:
    """The `ghvm` of the environment that this one runs in."""
    return Path(sys.prefix) / "bin" / "ghvm"


def _write(path: Path, text: str, *, force: bool) -> None:
    if not force and _content(path) not in (None, text.encode()):
        raise UsageError(
            f"{path} is there and has other content",
            resolution="Put changes into a drop-in (systemctl edit), and replace it with --force.",
        )
    write_for_all(path, text, _AS_ROOT)


def _content(path: Path) -> bytes | None:
    """None if nothing is there, or nothing that this user gets to see."""
    try:
        return path.read_bytes()
    except OSError as error:
        if os.path.lexists(path):
            raise PermanentError(f"{path} cannot be read: {error.strerror}", resolution=_AS_ROOT) from error
        return None
