"""The black boxes of finished runs: what explains each of them, kept for a while.

HISTORY/{id}/run.json       the record with the outcome
HISTORY/{id}/events.jsonl, console.log, runner.log, qemu.log
"""

import contextlib
import os
import shutil
import stat
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
    record: RunRecord | None
    """None if this ghvm cannot read it: a newer one may have written it."""
    ended: float
    """Seconds since 1970 at which it was put here."""
    size: int

    @property
    def had_no_machine(self) -> bool:
        """Whether the record says that there never was one."""
        return self.record is not None and self.record.vmm is None


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
        record = read_record(path)
        if self.most == 0 or record is None or record.trial:
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
        """All black boxes, the newest first."""
        found = list(self._found())
        return sorted(found, key=lambda kept: kept.ended, reverse=True)

    def prune(self) -> None:
        """Delete what is too much, and what an interrupted deletion left."""
        for path in runs.directories(self.directory):
            if _is_cut_off(path):
                shutil.rmtree(path, ignore_errors=True)
        for kept in self._too_much():
            # The record goes first: what is left of a crash is told from a black box by it.
            (kept.path / RECORD).unlink(missing_ok=True)
            shutil.rmtree(kept.path, ignore_errors=True)

    def _found(self) -> Iterator[Kept]:
        for path in runs.directories(self.directory):
            with contextlib.suppress(OSError):  # no black box, or pruned meanwhile
                found = (path / RECORD).lstat()
                if stat.S_ISREG(found.st_mode) and _is_ours(found) and _is_ours(path.lstat()):
                    size = sum(entry.lstat().st_size for entry in path.iterdir())
                    yield Kept(path, read_record(path), found.st_mtime, size)

    def _too_much(self) -> Iterator[Kept]:
        number = total = without_a_machine = 0
        for kept in self.list():
            number += 1
            total += kept.size
            without_a_machine += kept.had_no_machine
            many = number > self.most or total > self.size
            idle = kept.had_no_machine and without_a_machine > max(1, self.most // _WITHOUT_A_MACHINE)
            if number > 1 and (many or idle):
                number -= 1
                total -= kept.size
                yield kept


def _is_ours(found: os.stat_result) -> bool:
    return found.st_uid == os.geteuid()


def _is_cut_off(path: Path) -> bool:
    """Whether an interrupted deletion left this: ours, without a record, and with nothing that is no black box's."""
    with contextlib.suppress(OSError):
        entries = list(path.iterdir())
        known = all(entry.name in (runs.LOCK, *runs.BLACK_BOX) and not entry.is_dir() for entry in entries)
        return known and _is_ours(path.lstat()) and not os.path.lexists(path / RECORD)
    return False
