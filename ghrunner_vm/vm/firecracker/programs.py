"""Which Firecracker and which jailer, and whether they can be trusted with a guest."""

import hashlib
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from ghrunner_vm import process
from ghrunner_vm.errors import PermanentError
from ghrunner_vm.vm.firecracker.commandline import Programs

_SECONDS = 20.0
_VERSION = re.compile(r"v(\d{1,4})\.(\d{1,4})\.(\d{1,4})")
_FIXED, _FIXED_113 = (1, 14, 1), (1, 13, 2)
"""The first without CVE-2026-1386: a link in a jail made the jailer write elsewhere."""
_GET = "https://github.com/firecracker-microvm/firecracker/releases has both programs in one archive."


@dataclass(frozen=True)
class Wanted:
    """What the settings say."""

    firecracker: Path | None = None
    jailer: Path | None = None
    firecracker_sha256: str | None = None
    jailer_sha256: str | None = None
    allow_old: bool = False


def find(wanted: Wanted) -> Programs:
    """The two programs. Raises PermanentError for what is missing, another than asked for, or too old."""
    firecracker = _program("firecracker", wanted.firecracker, wanted.firecracker_sha256)
    jailer = _program("jailer", wanted.jailer, wanted.jailer_sha256)
    versions = [version(firecracker), version(jailer)]
    if versions[0] != versions[1]:
        raise PermanentError(
            f"Firecracker is version {_dotted(versions[0])}, its jailer {_dotted(versions[1])}",
            details=f"They are {firecracker} and {jailer}.",
            resolution=f"Install both of one version: {_GET}",
        )
    if is_old(versions[0]) and not wanted.allow_old:
        raise PermanentError(
            f"Firecracker {_dotted(versions[0])} is too old: its jailer follows links (CVE-2026-1386)",
            details=f"They are {firecracker} and {jailer}.",
            resolution=f"Install 1.14.1 or newer: {_GET} Or set firecracker-allow-old = true.",
        )
    return Programs(firecracker, jailer)


def is_old(found: tuple[int, int, int]) -> bool:
    """Whether a version has the known hole."""
    fixed_113 = found[:2] == _FIXED_113[:2] and found >= _FIXED_113
    return found < _FIXED and not fixed_113


def version(program: str) -> tuple[int, int, int]:
    """What `--version` says. Raises PermanentError if that is no version."""
    told = process.run([program, "--version"], timeout=_SECONDS)
    match = _VERSION.search(told)
    if match is None:
        raise PermanentError(f"{program} does not tell its version", details=told[:200], resolution=_GET)
    return int(match[1]), int(match[2]), int(match[3])


def _program(name: str, path: Path | None, sha256: str | None) -> str:
    found = shutil.which(str(path or name), path=process.environment()["PATH"])
    if found is None:
        where = f"There is no program {path}" if path else f"{name} is not installed"
        raise PermanentError(where, resolution=f"{_GET} Or name its place in the setting {name}.")
    _check_owner(found, name)
    if sha256 is not None and (actual := _sha256(found)) != sha256:
        raise PermanentError(
            f"{found} is another {name} than the settings name",
            details=f"Its SHA-256 is {actual}, {name}-sha256 is {sha256}.",
            resolution=f"Install the right one, or change {name}-sha256.",
        )
    return found


def _check_owner(path: str, name: str) -> None:
    status = os.stat(path)  # noqa: PTH116
    if status.st_uid != 0 or status.st_mode & 0o022:
        raise PermanentError(
            f"Others than root can change {path}",
            resolution=f"It is started as root: chown root {path}; chmod 755 {path}. Or name another {name}.",
        )


def _sha256(path: str) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _dotted(found: tuple[int, int, int]) -> str:
    return ".".join(map(str, found))
