"""A file of bounded size that keeps the last of what is written: the console of a guest that may never be quiet."""

import os
from pathlib import Path
from types import TracebackType
from typing import Self

from ghrunner_vm.files import open_plain


def old(name: str) -> str:
    """The name of the file beside a ring's that has what came before."""
    return f"{name}.old"


class Ring:
    """Keeps between `limit` and twice `limit` bytes in `path` and `path.old`; the rest is dropped from the front."""

    def __init__(self, path: Path, limit: int = 4 << 20) -> None:
        self._path = path
        self._limit = limit
        self._descriptor = self._open()
        self._size = 0
        self.total = 0
        """All bytes ever written, dropped ones included."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def write(self, data: bytes) -> None:
        """Append `data`. Raises OSError when the disk is full."""
        self.total += len(data)
        if self._size + len(data) > self._limit:
            self._turn()
        self._size += os.write(self._descriptor, data[-self._limit :])

    def _turn(self) -> None:
        self._path.replace(self._path.with_name(old(self._path.name)))
        full, self._descriptor = self._descriptor, self._open()
        os.close(full)
        self._size = 0

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(self._path, flags, 0o600)


def tail(path: Path, limit: int) -> bytes:
    """The last `limit` bytes of a ring; what is no plain file, a link for example, tells nothing."""
    content = b""
    for part in (path, path.with_name(old(path.name))):
        content = _end(part, limit - len(content)) + content
    return content


def last_words(path: Path, limit: int = 8192) -> str:
    """The same as text, for a person."""
    return tail(path, limit).decode(errors="replace").strip()


def _end(path: Path, limit: int) -> bytes:
    descriptor = open_plain(path) if limit > 0 else None
    if descriptor is None:
        return b""
    with os.fdopen(descriptor, "rb") as file:
        file.seek(max(0, os.fstat(descriptor).st_size - limit))
        return file.read(limit)
