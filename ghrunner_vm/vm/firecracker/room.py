"""A host's full disk: Firecracker tells its guest of an error of the disk, and nobody else."""

import asyncio
import os

_SECONDS = 2.0
_LEAST = 16 << 20
"""Bytes that a file system has left when it is taken for full: a guest can write that much between two looks."""


async def until_full(descriptor: int, *, pause: float = _SECONDS, least: int = _LEAST) -> None:
    """Return once the file system of an open file has hardly any room left, by a look every few seconds."""
    while _room(descriptor) >= least:  # noqa: ASYNC110 the kernel tells nobody of it
        await asyncio.sleep(pause)


def _room(descriptor: int) -> int:
    found = os.fstatvfs(descriptor)
    return found.f_bavail * found.f_frsize
