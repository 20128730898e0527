"""Whether the disk has room."""

import os
from pathlib import Path

from ghrunner_vm.errors import InfrastructureError
from ghrunner_vm.units import format_size

RESERVE = 256 << 20
"""Bytes that a pull leaves free, since a run needs some for its overlay and its log."""


def require_space(directory: Path, needed: int) -> None:
    """Raise InfrastructureError unless `needed` bytes and the reserve are free."""
    free = free_bytes(directory)
    if free < needed + RESERVE:
        raise disk_full(directory, needed, free)


def free_bytes(directory: Path) -> int:
    """Bytes that we may still write on this file system."""
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize


def disk_full(directory: Path, needed: int | None, free: int) -> InfrastructureError:
    """The error that says how much is needed and how much is free."""
    wanted = format_size(needed) if needed is not None else "an unknown size"
    return InfrastructureError(
        "The disk is too full for this image",
        details=f"{directory}: {wanted} more is needed and {format_size(RESERVE)} stays reserved; "
        f"{format_size(free)} is free",
        resolution="Free some space, or choose another --images-cache-dir.",
    )
