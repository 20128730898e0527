"""The directories of the cache."""

import contextlib
import shutil
from pathlib import Path

from ghrunner_vm.images.verify import check_directory


def make_directory(path: Path, *, parents: bool = False) -> None:
    """Make sure that this is a directory that only we may write; raises UnsafeCache and OSError."""
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o755, parents=parents)
    check_directory(path)


def directories(path: Path) -> list[Path]:
    """The visible directories in `path`, sorted; links are none."""
    if not path.is_dir():
        return []
    entries = (entry for entry in path.iterdir() if entry.is_dir() and not entry.is_symlink())
    return sorted(entry for entry in entries if not entry.name.startswith("."))


def clear(path: Path, *, keep: str = "") -> None:
    """Delete the visible directories in `path`, except `keep`."""
    for directory in directories(path):
        if directory.name != keep:
            shutil.rmtree(directory, ignore_errors=True)
