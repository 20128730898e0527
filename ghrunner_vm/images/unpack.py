"""Decompress, hash and write in one pass."""

import contextlib
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import zstandard

from ghrunner_vm.images import direct
from ghrunner_vm.images.download import CHUNK
from ghrunner_vm.images.errors import ImageCorrupt
from ghrunner_vm.images.space import writing
from ghrunner_vm.images.verify import NewHash, Stamp, Verified

MAX_WINDOW = 128 << 20
"""Bytes of memory that a compressed stream may ask for; `zstd` without --long or --ultra stays far below."""
_SPACE_STEP = 64 << 20
_COMPLETE = 0o444

Written = Callable[[int, int | None], None]
Room = Callable[[int], None]


@dataclass(frozen=True)
class Expected:
    """The most bytes that may come, and how many will come if that is known."""

    limit: int
    size: int | None


def unpack(
    compressed: Iterator[bytes],
    path: Path,
    expected: Expected,
    *,
    room: Room,
    written: Written,
    new_hash: NewHash = hashlib.sha256,
) -> Verified:
    """Write the new file `path` (0444, synced) from a zstd stream; its hash and stamp.

    `room` sees to it now and then that so many bytes still fit. `written` hears after each block how many bytes are
    written and how many there will be, if that is known.
    Raises ImageCorrupt for what is no zstd stream or longer than it may be, and DiskFull.
    """
    source = _Source(compressed)
    content, done, checked = new_hash(), 0, 0
    with (
        _errors_explained(path, expected.size),
        _new_file(path) as descriptor,
        direct.Blocks(descriptor, content) as blocks,
    ):
        read = _reader(source)
        while came := blocks.filled(read):
            done += came
            _require_announced(path, done, expected.limit)
            if done - checked >= _SPACE_STEP:
                room(max(0, (expected.size or 0) - done))
                checked = done
            written(done, expected.size or source.announced)
        blocks.finish()
        os.fchmod(descriptor, _COMPLETE)
        os.fsync(descriptor)
        return Verified(sha256=content.hexdigest(), stamp=Stamp.of(descriptor))


def _require_announced(path: Path, done: int, limit: int) -> None:
    if done > limit:
        raise ImageCorrupt(
            "The image server sends more than it announced",
            details=f"{path.name}: more than {limit} bytes",
            resolution="Check what the image server publishes.",
        )


def is_complete(descriptor: int) -> bool:
    """Whether `unpack` came to the end of this file. A power cut may make this lie, so the hash still decides."""
    return stat.S_IMODE(os.fstat(descriptor).st_mode) == _COMPLETE


class _Source:
    """The compressed stream as the decompressor wants it, with the size that its first frame announces."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._begun = False
        self.announced: int | None = None

    def read(self, _size: int = -1) -> bytes:
        chunk = next(self._chunks, b"")
        if not self._begun:
            self._begun = True
            self.announced = _announced_size(chunk)
        return chunk


def _announced_size(start: bytes) -> int | None:
    """For the eye only: nothing is believed on the strength of a header."""
    try:
        size = zstandard.get_frame_parameters(start).content_size
    except zstandard.ZstdError:
        return None
    return size if 0 < size < 1 << 48 else None


def _reader(source: _Source) -> Callable[[memoryview], int]:
    """Fills what it is given: pushing a chunk through would expand a bomb in memory before anyone could count."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
    reader = decompressor.stream_reader(source, read_size=CHUNK, read_across_frames=True)  # type: ignore[arg-type]
    return reader.readinto


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[int]:
    path.unlink(missing_ok=True)
    descriptor = direct.create(path, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _errors_explained(path: Path, needed: int | None) -> Iterator[None]:
    try:
        with writing(path.parent, needed):
            yield
    except zstandard.ZstdError as error:
        raise ImageCorrupt(
            "The image server sent something that cannot be decompressed",
            details=f"{path.name}: {error}",
            resolution="Check what the image server publishes; it must be compressed with zstd.",
        ) from error
