"""Whether the disk has room and may be written."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from ghrunner_vm.errors import DiskFull, is_disk_full
from ghrunner_vm.images.errors import CacheNotWritable
from ghrunner_vm.units import format_size

RESERVE = 256 << 20
"""Bytes that a pull leaves free, since a run needs some for its overlay and its log."""
_CACHE = "--images-cache-dir"
_NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)


def fits(directory: Path, needed: int) -> bool:
    """Whether `needed` bytes and the reserve are free."""
    return free_bytes(directory) >= needed + RESERVE


def require_space(directory: Path, needed: int) -> None:
    """Raise DiskFull unless `needed` bytes and the reserve are free."""
    if not fits(directory, needed):
        raise disk_full(directory, needed)


def free_bytes(directory: Path) -> int:
    """Bytes that we may still write on this file system."""
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize


def disk_full(directory: Path, needed: int | None, option: str = _CACHE) -> DiskFull:
    """The error that says how much is needed, if that is known, and how much is free."""
    wanted = "" if needed is None else f"{format_size(needed)} more is needed and "
    return DiskFull(
        "The disk is too full for this image",
        details=f"{directory}: {wanted}{format_size(RESERVE)} stays reserved; "
        f"{format_size(free_bytes(directory))} is free",
        resolution=f"Free some space, or choose another {option}.",
    )


@contextlib.contextmanager
def writing(directory: Path, needed: int | None, option: str = _CACHE) -> Iterator[None]:
    """What the file system refuses while `needed` bytes are written here raises DiskFull or CacheNotWritable.

    `option` is how a person chooses the directory.
    """
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise disk_full(directory, needed, option) from error
        if error.errno in _NOT_WRITABLE:
            raise _not_writable(directory, error, option) from error
        raise


def _not_writable(directory: Path, error: OSError, option: str) -> CacheNotWritable:
    return CacheNotWritable(
        "The image cache cannot be written" if option == _CACHE else "The image cannot be written",
        details=f"{error.filename or directory}: {error.strerror}",
        resolution=f"Let this user write {directory}, or choose another {option}.",
    )
