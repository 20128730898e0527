"""Long files written past the page cache, where the file system offers it."""

import fcntl
import hashlib
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from ghrunner_vm.images.direct import BLOCK, Blocks, create, write

MEMORY = Path("/dev/shm")  # noqa: S108 a file system in memory, without disk blocks
SIZES = [0, 1, 4095, 4096, BLOCK - 1, BLOCK, BLOCK + 512, 9 * BLOCK + 17]


@pytest.fixture(params=["disk", "memory"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "file" if request.param == "disk" else MEMORY / f"ghvm-test-{os.getpid()}"
    yield path
    path.unlink(missing_ok=True)


@pytest.mark.parametrize("size", SIZES)
def test_what_is_filled_in_is_written_and_hashed(path: Path, size: int) -> None:
    content = random.Random(size).randbytes(size)  # noqa: S311 the same in each run
    rest, digest = memoryview(content), hashlib.sha256()

    def fill(buffer: memoryview) -> int:
        """A little at a time, as a decompressor does."""
        nonlocal rest
        piece = rest[: min(len(buffer), 100_003)]
        buffer[: len(piece)] = piece
        rest = rest[len(piece) :]
        return len(piece)

    descriptor = create(path, 0o600)
    try:
        with Blocks(descriptor, digest) as blocks:
            sizes = []
            while came := blocks.filled(fill):
                sizes.append(came)
            blocks.finish()
    finally:
        os.close(descriptor)
    assert path.read_bytes() == content
    assert digest.hexdigest() == hashlib.sha256(content).hexdigest()
    assert sum(sizes) == size


def test_the_cache_is_passed_by_where_that_is_possible(tmp_path: Path) -> None:
    descriptor = create(tmp_path / "ours", 0o600)
    direct = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT
    os.close(descriptor)
    try:
        os.close(os.open(tmp_path / "theirs", os.O_WRONLY | os.O_CREAT | os.O_DIRECT))
        possible = True
    except OSError:
        possible = False
    assert bool(direct) is possible


def test_a_block_that_cannot_be_written_is_told(path: Path) -> None:
    path.write_bytes(b"")
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with Blocks(descriptor, hashlib.sha256()) as blocks:
            blocks.filled(len)
            with pytest.raises(OSError, match="Bad file descriptor"):
                blocks.finish()
        with pytest.raises(OSError, match="Bad file descriptor"):
            write(descriptor, memoryview(b"x"))
    finally:
        os.close(descriptor)
