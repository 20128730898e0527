"""A secret from a file that others cannot read: given by its path, or by systemd's LoadCredential=."""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ghrunner_vm.errors import PermanentError

_LIMIT = 64 << 10


@dataclass(frozen=True)
class Secret:
    """What a file holds, and whether its group can read it."""

    content: bytes = field(repr=False)
    shared: bool


def credential(name: str, environ: Mapping[str, str]) -> Path | None:
    """Where systemd puts a credential of this name; None for who is no service with credentials."""
    directory = environ.get("CREDENTIALS_DIRECTORY")
    return Path(directory) / name if directory else None


def read(path: Path, what: str) -> Secret:
    """The content of a file. Raises PermanentError if it is missing, no file, or readable by the world."""
    try:
        # Without O_NONBLOCK a named pipe would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        resolution = "Check the path, and that ghvm's user may read the file."
        raise PermanentError(f"{path}: the {what} cannot be read: {error.strerror}", resolution=resolution) from error
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise PermanentError(f"{path}: not a file", resolution=f"Name the file of the {what}.")
        if mode & stat.S_IROTH:
            raise PermanentError(f"{path}: every user can read the {what}", resolution=f"Run: chmod 600 {path}")
        return Secret(os.read(descriptor, _LIMIT), bool(mode & stat.S_IRGRP))
    finally:
        os.close(descriptor)
