"""Long files written past the page cache.

An image is larger than what a host's cache should give up for it, and on many hosts the kernel takes longer to find the
memory than the disk takes to write. Where a file system does not offer this, files are written as usual.
"""

import contextlib
import fcntl
import mmap
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Self

from ghrunner_vm.images.verify import Hash

BLOCK = 1 << 20
_BLOCKS = 8
"""At the most so many are being filled, hashed and written."""


def create(path: Path, mode: int) -> int:
    """The descriptor of a new file, past the cache if possible. Raises FileExistsError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with contextlib.suppress(OSError):
        _set(descriptor, direct=True)
    return descriptor


def write(descriptor: int, block: memoryview) -> None:
    """Write all of it. Only a block whose address and length the file system likes goes past the cache."""
    while block:
        try:
            block = block[os.write(descriptor, block) :]
        except OSError:
            if not _is_direct(descriptor):
                raise
            # The last block is seldom a multiple of the disk's; any other reason comes again.
            _set(descriptor, direct=False)


class Blocks:
    """A file that is made block by block: while one is filled, those before it are written and hashed."""

    def __init__(self, descriptor: int, content: Hash) -> None:
        self._descriptor = descriptor
        self._content = content
        self._buffers = [memoryview(mmap.mmap(-1, BLOCK)) for _ in range(_BLOCKS)]
        self._at_work: list[list[Future[None]]] = [[] for _ in range(_BLOCKS)]
        self._turn = 0
        # Neither holds Python's lock for long.
        self._writer = ThreadPoolExecutor(1)
        self._hasher = ThreadPoolExecutor(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._writer.shutdown(cancel_futures=True)
        self._hasher.shutdown(cancel_futures=True)

    def filled(self, fill: Callable[[memoryview], int]) -> int:
        """Let `fill` put as much as it can into the next block, and have it written; how much, 0 at the end.

        Raises what went wrong with the blocks before it.
        """
        self._await(self._turn)
        buffer = self._buffers[self._turn]
        size = 0
        while size < BLOCK and (more := fill(buffer[size:])):
            size += more
        block = buffer[:size]
        self._at_work[self._turn] = [
            self._hasher.submit(self._content.update, block),
            self._writer.submit(write, self._descriptor, block),
        ]
        self._turn = (self._turn + 1) % _BLOCKS
        return size

    def finish(self) -> None:
        """Wait until all is written, synced and hashed."""
        for turn in range(_BLOCKS):
            self._await(turn)
        os.fsync(self._descriptor)

    def _await(self, turn: int) -> None:
        for work in self._at_work[turn]:
            work.result()
        self._at_work[turn] = []


def _is_direct(descriptor: int) -> bool:
    return bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT)


def _set(descriptor: int, *, direct: bool) -> None:
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_DIRECT if direct else flags & ~os.O_DIRECT)
