"""Is this QEMU new enough?"""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from ghrunner_vm import process
from ghrunner_vm.errors import PermanentError
from ghrunner_vm.vm.base import Arch
from ghrunner_vm.vm.qemu import memory

OLDEST = (7, 2)
"""The version whose options ghvm uses (Debian 12 has it)."""
_SECONDS = 20.0
_VERSION = re.compile(r"version (\d{1,4})\.(\d{1,4})")
_PACKAGES: Mapping[Arch, str] = {
    "x86_64": "On Debian and Ubuntu: apt-get install qemu-system-x86. On Fedora: dnf install qemu-system-x86.",
    "aarch64": "On Debian and Ubuntu: apt-get install qemu-system-arm. On Fedora: dnf install qemu-system-aarch64.",
}


def find(arch: Arch, remembered: Path) -> str:
    """The path of a QEMU for this architecture that is new enough; the version is remembered in a file.

    Raises PermanentError if there is none.
    """
    program = f"qemu-system-{arch}"
    binary = shutil.which(program)
    if binary is None:
        raise PermanentError(f"{program} is not installed", resolution=_PACKAGES[arch])
    found = _version(binary, remembered)
    if found < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        raise PermanentError(
            f"{program} is version {'.'.join(map(str, found))}; ghvm needs {wanted} or newer",
            details=f"It is {binary}.",
            resolution=f"Debian 12, Ubuntu 24.04 and later releases have it. {_PACKAGES[arch]}",
        )
    return binary


def _version(binary: str, remembered: Path) -> tuple[int, int]:
    key = memory.identity(binary)
    told = memory.recall(remembered, key)
    if not isinstance(told, str):
        told = process.run([binary, "--version"], timeout=_SECONDS).partition("\n")[0]
        memory.keep(remembered, key, told)
    match = _VERSION.search(told)
    if match is None:
        raise PermanentError(
            f"{binary} does not tell its version", details=told[:200], resolution="Install QEMU from your distribution."
        )
    return int(match[1]), int(match[2])
