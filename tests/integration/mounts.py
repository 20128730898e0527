"""File systems that refuse: a small one, and a read-only one. Only root can mount."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ghrunner_vm import process

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
_SECONDS = 30.0


@contextlib.contextmanager
def small_disk(path: Path, size: int) -> Iterator[Path]:
    """A file system of `size` bytes at the new directory `path`."""
    path.mkdir()
    process.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "ghvm-test", str(path)], timeout=_SECONDS)
    with _mounted(path):
        yield path


@contextlib.contextmanager
def read_only(path: Path) -> Iterator[None]:
    """`path` cannot be written inside the block."""
    process.run(["mount", "--bind", str(path), str(path)], timeout=_SECONDS)
    with _mounted(path):
        process.run(["mount", "-o", "remount,ro,bind", str(path)], timeout=_SECONDS)
        yield


@contextlib.contextmanager
def _mounted(path: Path) -> Iterator[None]:
    try:
        yield
    finally:
        process.run(["umount", "--lazy", str(path)], timeout=_SECONDS)
