"""Tarballs that were downloaded, kept by the hash of their content.

    {sha256}.tar.gz    whole and synced; its time of change is that of its last use
    .part-XXXX         one that is being written; a crash leaves it to a later process

Several processes share one cache: what is renamed into place is the same, whoever wrote it.
"""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from ghrunner_vm.clock import SYSTEM, Clock
from ghrunner_vm.errors import GhvmError, InfrastructureError
from ghrunner_vm.files import sync_directory
from ghrunner_vm.images.directories import make_directory
from ghrunner_vm.images.space import writing
from ghrunner_vm.images.verify import check_directory
from ghrunner_vm.units import format_size

MAX_BYTES = 1 << 30
"""GitHub's runner takes about 0.2 GiB."""
_CHUNK = 1 << 20
_DAY = 24 * 3600.0
_UNUSED_DAYS = 30


class WrongHash(InfrastructureError):
    """The content is not the one that was asked for."""


class TarballCache:
    """The cache in one directory, which is made when something is put into it."""

    def __init__(self, directory: Path, *, clock: Clock = SYSTEM) -> None:
        self._directory = directory
        self._clock = clock

    def find(self, sha256: str) -> Path | None:
        """The tarball with this hash, which is computed anew. One that is damaged is removed. Raises UnsafeCache."""
        path = self._path(sha256)
        if path.exists():
            check_directory(self._directory)
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            return None
        if found != sha256:
            path.unlink(missing_ok=True)
            return None
        self._use(path)
        return path

    def add(self, content: Iterable[bytes], what: str, sha256: str | None = None) -> tuple[Path, str]:
        """Keep a tarball of at most 1 GiB; its place, and its hash, which must be `sha256` if that is given.

        Keeps nothing after an error: WrongHash, GhvmError when it is too long, DiskFull, CacheNotWritable, UnsafeCache.
        """
        with writing(self._directory, None):
            make_directory(self._directory, parents=True)
            self._tidy()
            with self._staged() as (descriptor, staged):
                found = _write(descriptor, content, what)
                if sha256 is not None and found != sha256:
                    raise _wrong(what, sha256, found)
                path = self._path(found)
                staged.rename(path)
                sync_directory(self._directory)
        return path, found

    @contextlib.contextmanager
    def _staged(self) -> Iterator[tuple[int, Path]]:
        descriptor, name = tempfile.mkstemp(prefix=".part-", dir=self._directory)
        try:
            yield descriptor, Path(name)
        finally:
            os.close(descriptor)
            Path(name).unlink(missing_ok=True)

    def _path(self, sha256: str) -> Path:
        return self._directory / f"{sha256}.tar.gz"

    def _use(self, path: Path) -> None:
        with contextlib.suppress(OSError):  # another user's cache may still be read
            os.utime(path, (self._clock.wall(), self._clock.wall()))

    def _tidy(self) -> None:
        """Remove what nobody has used for a month, and what nobody can be writing any more."""
        for pattern, days in (("*.tar.gz", _UNUSED_DAYS), (".part-*", 1)):
            for path in self._directory.glob(pattern):
                with contextlib.suppress(OSError):
                    if path.stat().st_mtime < self._clock.wall() - days * _DAY:
                        path.unlink()


def blocks(file: BinaryIO) -> Iterator[bytes]:
    """What is left to read of a file."""
    while block := file.read(_CHUNK):
        yield block


def _write(descriptor: int, content: Iterable[bytes], what: str) -> str:
    """The hash of what was written and synced."""
    digest, size = hashlib.sha256(), 0
    with open(descriptor, "wb", closefd=False) as file:
        for block in content:
            size += len(block)
            if size > MAX_BYTES:
                raise too_long(what)
            digest.update(block)
            file.write(block)
    os.fsync(descriptor)
    return digest.hexdigest()


def too_long(what: str) -> GhvmError:
    """The error for what is no runner, to judge by its size alone."""
    return GhvmError(
        f"{what} is too long for a runner", details=f"A runner has at most {format_size(MAX_BYTES)} as a tarball."
    )


def _wrong(what: str, wanted: str, found: str) -> WrongHash:
    return WrongHash(
        f"{what} is not what it should be",
        details=f"Its SHA-256 should be {wanted} and is {found}.",
        resolution="Get it again. If it stays so, somebody on the way has changed it, or the expected hash is wrong.",
    )
