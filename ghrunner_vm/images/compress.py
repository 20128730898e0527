"""Compressed copies of what an image server serves, made once per content."""

import contextlib
import hashlib
import os
import secrets
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import zstandard
from pydantic import Field, ValidationError

from ghrunner_vm import files
from ghrunner_vm.images.locking import lock_within
from ghrunner_vm.images.manifest import OwnFile, Sha256
from ghrunner_vm.images.verify import Stamp

LEVEL = 3
THREADS = 2
_BLOCK = 1 << 20
_LOCK_SECONDS = 3600.0
_STAGED = ".tmp"
_MEMO = "memo.json"


class Changed(Exception):
    """The file was written while it was read."""


@dataclass(frozen=True)
class Content:
    """A file's content: bytes and hash uncompressed, and where its compressed copy lies."""

    size: int
    sha256: str
    compressed: Path


class _Remembered(OwnFile):
    stamp: Stamp
    sha256: Sha256


class _Memo(OwnFile):
    files: dict[str, _Remembered] = Field(default_factory=dict)


class CompressedCache:
    """A directory of `{sha256}.zst`, shared by several processes, and the hashes of files that have not changed."""

    def __init__(self, directory: Path, check: Callable[[], None]) -> None:
        self._directory = directory
        self._check = check
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._memo = self._read_memo()

    def prepare(self, path: Path) -> Content:
        """The content of a file, compressed if it is not yet. Raises Changed, OSError and what `check` raises."""
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            stamp = Stamp.of(descriptor)
            known = self._memo.get(str(path))
            if known is not None and known.stamp == stamp and self._path(known.sha256).is_file():
                return Content(stamp.size, known.sha256, self._path(known.sha256))
            with lock_within(self._directory / ".lock", _LOCK_SECONDS, check=self._check):
                sha256 = self._compress(descriptor, stamp)
                self._remember({**self._read_memo(), str(path): _Remembered(stamp=stamp, sha256=sha256)})
        finally:
            os.close(descriptor)
        return Content(stamp.size, sha256, self._path(sha256))

    def prune(self, served: Collection[Path]) -> None:
        """Delete the copies that are neither `served` nor remembered, by any process, as those of a file that exists.

        Does nothing while somebody compresses: there will be another time.
        """
        with contextlib.suppress(files.Locked), files.lock(self._directory / ".lock", wait=False):
            memo = {path: known for path, known in self._read_memo().items() if Path(path).is_file()}
            wanted = {self._path(known.sha256) for known in memo.values()}.union(served)
            for copy in self._directory.glob("*.zst"):
                if copy not in wanted:
                    copy.unlink(missing_ok=True)
            self._remember(memo)

    def _path(self, sha256: str) -> Path:
        return self._directory / f"{sha256}.zst"

    def _compress(self, descriptor: int, stamp: Stamp) -> str:
        """Hash and compress in one reading; gives the hash."""
        content = hashlib.sha256()
        with self._staged() as (staged, target):
            compressor = zstandard.ZstdCompressor(level=LEVEL, threads=THREADS)
            with open(target, "wb") as file, compressor.stream_writer(file, size=stamp.size, closefd=False) as writer:  # noqa: PTH123 a descriptor
                for block in self._blocks(descriptor, stamp.size):
                    content.update(block)
                    writer.write(block)
            if Stamp.of(descriptor) != stamp:
                raise Changed
            sha256 = content.hexdigest()
            staged.replace(self._path(sha256))
        files.sync_directory(self._directory)
        return sha256

    def _blocks(self, descriptor: int, size: int) -> Iterator[bytes]:
        offset = 0
        while block := os.pread(descriptor, _BLOCK, offset):
            self._check()
            offset += len(block)
            if offset > size:
                raise Changed
            yield block
        if offset != size:
            raise Changed

    @contextlib.contextmanager
    def _staged(self) -> Iterator[tuple[Path, int]]:
        for leftover in self._directory.glob(f".*{_STAGED}"):  # we hold the lock, so its writer is dead
            leftover.unlink(missing_ok=True)
        staged = self._directory / f".{secrets.token_hex(8)}{_STAGED}"
        try:
            yield staged, os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        finally:
            staged.unlink(missing_ok=True)

    def _remember(self, memo: dict[str, _Remembered]) -> None:
        self._memo = memo
        files.write_atomically(self._directory / _MEMO, _Memo(files=self._memo).to_json())

    def _read_memo(self) -> dict[str, _Remembered]:
        try:
            return dict(_Memo.model_validate_json((self._directory / _MEMO).read_bytes()).files)
        except (OSError, ValidationError):
            return {}
