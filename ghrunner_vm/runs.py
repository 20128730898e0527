"""The run directory: what one `ghvm run` leaves for gc, and for everybody who wants to know how it is doing.

    RUNS/{id}/run.json       the record, replaced as a whole
    RUNS/{id}/lock           held as long as the run lives, by the supervisor and by the VMM
    RUNS/{id}/console.log    the guest's console, a ring
    RUNS/{id}/runner.log     what the runner says, a ring
    RUNS/{id}/qemu.log       what the VMM says, a ring
    RUNS/{id}/events.jsonl   what happened when
    RUNS/{id}/overlay.qcow2  the guest's disk

A directory is made under a temporary name, locked, then renamed, so that nobody meets a run without its lock. Its lock
is deleted last: a directory that holds anything but has no lock is not one of ours.
"""

import contextlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from ghrunner_vm.clock import SYSTEM, Clock
from ghrunner_vm.errors import InfrastructureError, PermanentError
from ghrunner_vm.files import Locked, lock, write_atomically
from ghrunner_vm.record import RECORD, RunRecord, encode_record
from ghrunner_vm.ring import old

LOCK = "lock"
CONSOLE = "console.log"
EVENTS = "events.jsonl"
RUNNER = "runner.log"
VMM = "qemu.log"
DISK = "overlay.qcow2"
_RINGS = (CONSOLE, RUNNER, VMM)
BLACK_BOX = frozenset((RECORD, EVENTS, *_RINGS, *map(old, _RINGS)))
"""What tells of a run after its end."""
NEWBORN = ".new-"
"""Begins the name of a directory that has no record: a run's before it is renamed, or a scratch directory."""
_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}[a-z0-9]")
_EVENTS_LIMIT = 4 << 20
_ATTEMPTS = 100


class RunDirectory:
    """The directory of a run that is ours: its lock is held."""

    def __init__(self, path: Path, lock_descriptor: int, record: RunRecord, clock: Clock = SYSTEM) -> None:
        self.path = path
        self.lock = lock_descriptor
        self.record = record
        self._clock = clock
        self._events_size = 0

    def update(self, **changes: object) -> None:
        """Replace fields of the record."""
        phase = changes.get("phase", self.record.phase)
        if phase != self.record.phase:
            changes["since"] = now = self._clock.wall()
            changes["phases"] = {**self.record.phases, str(phase): self.record.phases.get(str(phase), now)}
        self.record = self.record.model_copy(update=changes)
        write_atomically(self.path / RECORD, encode_record(self.record))

    def log(self, event: str, **fields: object) -> None:
        """Add a line to the run's events; neither a guest nor a full disk does harm here."""
        line = json.dumps({"time": round(self._clock.wall(), 3), "event": event, **fields}) + "\n"
        if self._events_size + len(line) > _EVENTS_LIMIT:
            return
        self._events_size += len(line)
        with contextlib.suppress(OSError), (self.path / EVENTS).open("a", encoding="utf-8") as file:
            file.write(line)

    @property
    def settled(self) -> bool:
        """Whether GitHub holds nothing of this run any more."""
        return self.record.runner is None or self.record.runner.state == "released"


@contextlib.contextmanager
def create(
    runs: Path, record: RunRecord, clock: Clock = SYSTEM, *, bury: Callable[[Path], None] | None = None
) -> Iterator[RunDirectory]:
    """A new run directory, locked. It is deleted at the end, or whatever else `bury` does with it.

    If GitHub may still hold its registration it stays. So it does after a crash: `ghvm gc` takes it from there.
    """
    newborn = runs / f"{NEWBORN}{record.id}"
    with _locked(newborn) as descriptor:
        write_atomically(newborn / RECORD, encode_record(record))
        path = runs / record.id
        newborn.rename(path)
        run = RunDirectory(path, descriptor, record, clock)
        try:
            yield run
        finally:
            # What cannot be deleted is left to gc, which may have taken over already once the lock file is gone.
            with contextlib.suppress(OSError):
                clear(path)
                write_atomically(path / RECORD, encode_record(run.record))  # there may have been no room before
                if run.settled:
                    (bury or remove)(path)


@contextlib.contextmanager
def scratch(runs: Path, purpose: str) -> Iterator[Path]:
    """A directory for large files that goes at the end of the block. A crash leaves it to `ghvm gc`."""
    path = runs / f"{NEWBORN}{new_id(purpose)}"
    with _locked(path):
        try:
            yield path
        finally:
            with contextlib.suppress(OSError):
                remove(path)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Make a directory and lock it. gc takes one that is still bare for a leftover: then it is made again."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with home(path.parent):
        pass  # it can be trusted
    with contextlib.ExitStack() as stack:
        for _ in range(_ATTEMPTS):
            path.mkdir(mode=0o700, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                # Shared, since the VMM takes a share of its own; gc takes it exclusively.
                descriptor = stack.enter_context(lock(path / LOCK, shared=True))
                break
        else:
            raise InfrastructureError(f"The directory {path} disappears as often as it is made")
        yield descriptor


@contextlib.contextmanager
def home(runs: Path) -> Iterator[Path]:
    """A name for the directory of all runs that stays the same directory, whatever becomes of its path meanwhile.

    Raises PermanentError if it is a link, or if anybody else may write to it; FileNotFoundError if there is none.
    """
    try:
        descriptor = os.open(runs, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except NotADirectoryError as error:  # a link as well (open(2))
        raise _unsafe(runs, "it is no directory, or a link to one") from error
    try:
        found = os.fstat(descriptor)
        if found.st_uid != os.geteuid():
            raise _unsafe(runs, f"it belongs to user {found.st_uid}, not to us ({os.geteuid()})")
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise _unsafe(runs, f"others may write to it (mode {stat.S_IMODE(found.st_mode):04o})")
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _unsafe(runs: Path, why: str) -> PermanentError:
    return PermanentError(
        f"The directory {runs} cannot be trusted",
        details=f"For {runs}: {why}.",
        resolution="Choose a --state-dir of your own, or give this one to the user who runs ghvm, with mode 0700.",
    )


def remove(path: Path) -> None:
    """Delete a run directory whose lock we hold. Links are not followed.

    Raises OSError with ENOTEMPTY if somebody else has taken the directory up once its lock was gone.
    """
    clear(path, keep=())
    (path / LOCK).unlink(missing_ok=True)
    path.rmdir()


def clear(path: Path, *, keep: Collection[str] = BLACK_BOX) -> None:
    """Delete all in a run directory but its lock and what is named in `keep`."""
    for entry in [entry for entry in path.iterdir() if entry.name not in (LOCK, *keep)]:
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def new_id(label: str) -> str:
    """A name for a run: readable, unique, fit for a file, a host name and a runner."""
    stem = re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")[:40].strip("-") or "run"
    return f"{stem}-{secrets.token_hex(4)}"


def directories(runs: Path) -> list[Path]:
    """The directories that may be runs. Nothing in them is trusted: names are checked, links are left out."""
    if not runs.is_dir():
        return []
    entries = (Path(entry.path) for entry in os.scandir(runs) if entry.is_dir(follow_symlinks=False))
    return sorted(path for path in entries if _ID.fullmatch(path.name.removeprefix(NEWBORN)))


@contextlib.contextmanager
def adopt(path: Path) -> Iterator[int | None]:
    """Hold the lock of a run whose processes are gone, made if missing; yields None if somebody holds it."""
    with contextlib.ExitStack() as stack:
        try:
            descriptor = stack.enter_context(lock(path / LOCK, wait=False))
        except (Locked, FileNotFoundError):
            descriptor = None
        yield descriptor
