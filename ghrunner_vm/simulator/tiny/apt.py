"""The distribution's packages, of this host's architecture or another, without installing them."""

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from ghrunner_vm import process
from ghrunner_vm.clock import SYSTEM
from ghrunner_vm.errors import InfrastructureError

DEBIAN_NAMES: Mapping[str, str] = {"x86_64": "amd64", "aarch64": "arm64"}
"""The packages' names of architectures."""
_SECONDS = 300.0
_DAY = 24 * 3600.0


@dataclass(frozen=True)
class Apt:
    """apt with the package lists of one architecture."""

    options: tuple[str, ...] = ()

    def depends(self, package: str) -> str:
        """What a package depends on, in apt-cache's words; empty if there is no such package."""
        try:
            return process.run(["apt-cache", *self.options, "depends", package], timeout=60, env={"LC_ALL": "C"})
        except process.CommandFailed:
            return ""

    def unpack(self, packages: Sequence[str], into: Path) -> None:
        """Download the packages and unpack them below `into`. No root is needed, and none of their programs runs."""
        with TemporaryDirectory(prefix="ghvm-packages-") as download:
            process.run(["apt-get", *self.options, "download", *packages], timeout=_SECONDS, cwd=Path(download))
            for package in sorted(Path(download).glob("*.deb")):
                process.run(["dpkg-deb", "-x", str(package), str(into)], timeout=_SECONDS)


HOST = Apt()
"""As this host is set up."""


def apt(arch: str, cache: Path) -> Apt:
    """This host's lists, or those of another architecture from the same sources, kept in `cache` for a day.

    Of several processes with one cache only one may be in here.
    """
    # As root apt would download as a user of its own, which cannot write to a directory that only we can.
    itself = ("-o", "APT::Sandbox::User=root") if os.geteuid() == 0 else ()
    if arch == platform.machine():
        return Apt(itself)
    state = cache / f"apt-{arch}"
    name = DEBIAN_NAMES[arch]
    settings = {
        "APT::Architecture": name,
        "APT::Architectures::": name,
        "Dir::State": state,
        "Dir::State::status": "/dev/null",
        "Dir::Cache": state,
    }
    options = (*itself, *(word for key, value in settings.items() for word in ("-o", f"{key}={value}")))
    _update(options, state)
    return Apt(options)


def _update(options: Sequence[str], state: Path) -> None:
    updated = state / "updated"
    if updated.exists() and SYSTEM.wall() - updated.stat().st_mtime < _DAY:
        return
    for directory in ("lists/partial", "archives/partial"):
        (state / directory).mkdir(parents=True, exist_ok=True)
    try:
        process.run(["apt-get", *options, "update"], timeout=_SECONDS)
    except InfrastructureError:
        if not updated.exists():
            raise
        return  # older lists may still do
    # apt-get counts a server that it could not reach as a success.
    if any((state / "lists").glob("*_Packages*")):
        updated.touch()
