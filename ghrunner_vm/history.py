"""The black boxes of finished runs: what explains each of them, kept for a while.

HISTORY/{id}/run.json       the record with the outcome
HISTORY/{id}/events.jsonl, console.log, runner.log, qemu.log
"""

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ghrunner_vm import runs
from ghrunner_vm.errors import PermanentError
from ghrunner_vm.record import RECORD, RunRecord, read_record

_WITHOUT_A_MACHINE = 5
"""Of so many, one may be of a run that never had a machine: a night of failed starts must not push the rest out."""


@dataclass(frozen=True)
class Kept:
    """A finished run, and the bytes that its black box takes."""

    path: Path
    record: RunRecord
    ended: float
    """Seconds since 1970 at which it was put here."""
    size: int


@dataclass(frozen=True)
class History:
    """Keeps at most `most` black boxes and `size` bytes of them; the newest one is kept in any case."""

    directory: Path
    most: int = 50
    size: int = 200 << 20

    def keep(self, path: Path) -> None:
        """Put a finished run here, whose lock is held; its directory is gone then. Raises OSError.

        A crash leaves it where it was, or here with its lock file. Nothing is kept where others could change it.
        """
        if self.most == 0 or read_record(path) is None:
            runs.remove(path)
            return
        runs.clear(path)
        self.directory.mkdir(mode=0o700, exist_ok=True)
        try:
            with runs.home(self.directory) as home:
                kept = path.rename(home / path.name)
                (kept / runs.LOCK).unlink(missing_ok=True)
        except PermanentError:
            runs.remove(path)
            return
        self.prune()

    def list(self) -> list[Kept]:
        """All that can be read, the newest first."""
        found = list(self._found())
        return sorted(found, key=lambda kept: kept.ended, reverse=True)

    def prune(self) -> None:
        """Delete what is too much, and what an interrupted deletion left."""
        for path in runs.directories(self.directory):
            if not (path / RECORD).exists():
                shutil.rmtree(path, ignore_errors=True)
        for kept in self._too_much():
            # The record goes first: what is left of a crash is told from a black box by it.
            (kept.path / RECORD).unlink(missing_ok=True)
            shutil.rmtree(kept.path, ignore_errors=True)

    def _found(self) -> Iterator[Kept]:
        for path in runs.directories(self.directory):
            record = read_record(path)
            with contextlib.suppress(OSError):  # pruned meanwhile
                if record is not None:
                    size = sum(entry.lstat().st_size for entry in path.iterdir())
                    yield Kept(path, record, (path / RECORD).lstat().st_mtime, size)

    def _too_much(self) -> Iterator[Kept]:
        number = total = without_a_machine = 0
        for kept in self.list():
            number += 1
            total += kept.size
            without_a_machine += kept.record.vmm is None
            many = number > self.most or total > self.size
            idle = kept.record.vmm is None and without_a_machine > max(1, self.most // _WITHOUT_A_MACHINE)
            if number > 1 and (many or idle):
                number -= 1
                total -= kept.size
                yield kept
