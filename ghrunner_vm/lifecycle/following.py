"""Reads a file of a run, a ring or a plain one: what is there, and what comes until the run is over."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from ghrunner_vm.files import open_plain
from ghrunner_vm.ring import old

_POLL_SECONDS = 0.2
_BLOCK = 1 << 16


def content(path: Path) -> Iterator[bytes]:
    """All that is kept."""
    for part in (path.with_name(old(path.name)), path):
        with contextlib.closing(_Reader()) as reader:
            yield from reader.news(part)


def follow(locate: Callable[[], Path], over: Callable[[], bool], sleep: Callable[[float], None]) -> Iterator[bytes]:
    """As `content`, and then what is added until the run is `over`. `locate` tells where the file is by now.

    An empty block says that nothing has been added for a moment.
    """
    path = locate()
    with contextlib.closing(_Reader()) as reader:
        yield from reader.news(path.with_name(old(path.name)))
        while True:
            ending = over()  # asked first: what was written before that is read below
            quiet = True
            for block in reader.news(locate()):
                quiet = False
                yield block
            if ending:
                return
            if quiet:
                yield b""
            sleep(_POLL_SECONDS)


class _Reader:
    """Holds the file that it read last, since a ring gives its name to a new one now and then."""

    def __init__(self) -> None:
        self._descriptor: int | None = None

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None

    def news(self, path: Path) -> Iterator[bytes]:
        """What has been written since the last call; the new file's beginning if `path` is another file by now."""
        if self._descriptor is not None and _same(self._descriptor, path):
            yield from self._rest()
            return
        yield from self._rest()  # of the file that had the name before
        self.close()
        self._descriptor = open_plain(path)
        yield from self._rest()

    def _rest(self) -> Iterator[bytes]:
        while self._descriptor is not None and (block := os.read(self._descriptor, _BLOCK)):
            yield block


def _same(descriptor: int, path: Path) -> bool:
    """Also true while the name is missing: between two turns, or since the run's directory is gone."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return True
