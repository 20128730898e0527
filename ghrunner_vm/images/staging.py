"""Where images are prepared: one directory per name, locked by who pulls, in it one per commit.

    .staging/{name}/.lock
    .staging/{name}/{commit}/    what is complete, and what an interrupted pull may go on from

The lock is per name, not per commit: there are as many lock files as names, so none has to be deleted.
"""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ghrunner_vm import files
from ghrunner_vm.clock import Clock
from ghrunner_vm.errors import DiskFull
from ghrunner_vm.images.directories import clear, directories, make_directory
from ghrunner_vm.images.locking import lock_within
from ghrunner_vm.images.space import writing

PULL_SECONDS = 3600.0
"""How long a pull waits for another process that pulls the same image."""
RESUME_SECONDS = 86_400.0
"""How long what an interrupted pull left is kept for the next one to go on from."""
RECORD_BYTES = 64 << 10
"""More than what an image needs beside its artifacts."""


@dataclass(frozen=True)
class Staging:
    """The staging directories in `home`."""

    home: Path
    clock: Clock

    @contextlib.contextmanager
    def hold(self, commit: str, name: str, check: Callable[[], None]) -> Iterator[Path]:
        """The directory in which to prepare an image, ours alone. `check` is called while waiting and may raise.

        What the file system refuses inside the block raises DiskFull, which empties the directory, or CacheNotWritable.
        """
        mine = self.home / name
        with writing(self.home, RECORD_BYTES):
            make_directory(self.home)
            make_directory(mine)
            with lock_within(mine / ".lock", PULL_SECONDS, check=check, clock=self.clock):
                clear(mine, keep=commit)
                with _gone_when_full(mine / commit):
                    make_directory(mine / commit)
                    yield mine / commit

    def clear_old(self) -> None:
        """Delete what nobody holds and nobody went on from for RESUME_SECONDS."""
        for mine in directories(self.home):
            with contextlib.suppress(OSError, files.Locked), files.lock(mine / ".lock", wait=False):
                for commit in directories(mine):
                    if not 0 <= self.clock.wall() - commit.lstat().st_mtime < RESUME_SECONDS:
                        shutil.rmtree(commit, ignore_errors=True)


@contextlib.contextmanager
def _gone_when_full(path: Path) -> Iterator[None]:
    try:
        with writing(path.parent, RECORD_BYTES):
            yield
    except DiskFull:
        shutil.rmtree(path, ignore_errors=True)
        raise
