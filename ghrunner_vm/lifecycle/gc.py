"""Removes what dead runs left: virtual machines, disks, sockets, registrations.

It may run as root and trusts nothing it reads: paths come from a directory's own name, links are not followed,
owners are checked, a VMM is ended for what the kernel tells of it, and a registration is found by the run's own name.
"""

import contextlib
import errno
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ghrunner_vm import runs
from ghrunner_vm.clock import SYSTEM, Clock
from ghrunner_vm.errors import GhvmError, PermanentError
from ghrunner_vm.github.client import GitHub
from ghrunner_vm.lifecycle.orphans import end_orphans
from ghrunner_vm.lifecycle.registration import release_recorded
from ghrunner_vm.record import RECORD, RunnerRecord, RunRecord, read_record

Fate = Literal["removed", "pending", "kept"]
Client = Callable[[RunnerRecord], GitHub | None]
Bury = Callable[[Path], None]

_STAGED = re.compile(r"\.[a-z0-9_-]+\.json\.[0-9a-f]{8}")  # see files.write_atomically
_UNREADABLE = f"this ghvm cannot read its {RECORD}: delete the directory once GitHub has no runner of its name"


@dataclass(frozen=True)
class Collected:
    """What became of the remains of one run; `why` says what is pending and why something was kept."""

    id: str
    fate: Fate
    why: str = ""


def collect(
    directory: Path,
    sockets: Sequence[Path],
    github: Client,
    clock: Clock = SYSTEM,
    *,
    bury: Bury = runs.remove,
) -> Iterator[Collected]:
    """Go through all runs and clear up after those whose supervisor is dead. Live runs are left alone, in silence.

    `sockets` are the directories in which their sockets may be. `bury` takes away the directory of one that is cleared
    up. `github` gives a client for a recorded registration, or None when its scope is not the one configured here.
    Raises PermanentError if others can write to the directory of runs.
    """
    try:
        with runs.home(directory) as home:
            for path in runs.directories(home):
                collected = _directory(path, sockets, github, clock, bury)
                if collected is not None:
                    yield collected
    except FileNotFoundError:
        return  # there has never been a run


def sweep(state: Path) -> None:
    """Delete what was staged in the state directory by processes that died before it had its name.

    Only what one can do without is kept there, so whoever is staging something just now can bear the loss.
    """
    with contextlib.suppress(FileNotFoundError, PermanentError), runs.home(state) as home:
        for path in [path for path in home.iterdir() if _STAGED.fullmatch(path.name)]:
            path.unlink(missing_ok=True)


def _directory(path: Path, sockets: Sequence[Path], github: Client, clock: Clock, bury: Bury) -> Collected | None:
    try:
        if why := _foreign(path):
            return Collected(path.name, "kept", why)
        return _run(path, sockets, github, clock, bury)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTEMPTY):
            return None  # its own run, or another gc, removes it as well
        return Collected(path.name, "kept", f"it cannot be removed: {error.strerror}")


def _foreign(path: Path) -> str:
    """Why a directory is none that a run has made; empty if it may be one."""
    found = path.lstat()
    if found.st_uid != os.geteuid():
        return "it belongs to another user"
    if stat.S_IMODE(found.st_mode) & 0o077:
        return "it is open to others, so no run has made it"
    # A run makes its lock first and deletes it last.
    content = {entry.name for entry in path.iterdir()}
    return "it has no lock, so no run has made it" if content and runs.LOCK not in content else ""


def _run(path: Path, sockets: Sequence[Path], github: Client, clock: Clock, bury: Bury) -> Collected | None:
    end_orphans(path / runs.LOCK)
    with runs.adopt(path) as lock:
        if lock is None:
            return None
        collected = _verdict(path, github, clock.wall())
        for place in sockets:
            (place / f"{path.name}.sock").unlink(missing_ok=True)
        if collected.fate == "removed":
            bury(path)
        else:
            runs.clear(path)
    return collected


def _verdict(path: Path, github: Client, now: float) -> Collected:
    """What is to become of a dead run."""
    record = read_record(path)
    if record is None:
        unreadable = os.path.lexists(path / RECORD) and not path.name.startswith(runs.NEWBORN)
        return Collected(path.name, "kept", _UNREADABLE) if unreadable else Collected(path.name, "removed")
    why = _release(record, github, now)
    return Collected(path.name, "pending" if why else "removed", why)


def _release(record: RunRecord, github: Client, now: float) -> str:
    """Why the registration is still there; empty if it is not."""
    runner = record.runner
    if runner is None or runner.state == "released":
        return ""
    try:
        client = github(runner)
        if client is None:
            return f"its registration is in {runner.scope} at {runner.api_url}, which is not configured here"
        released = release_recorded(client, _by_name(runner), now)
    except GhvmError as error:
        return f"its registration could not be deleted: {error.brief}"
    if released:
        return ""
    return "its registration may still appear" if runner.id is None else "GitHub believes that its job still runs"


def _by_name(runner: RunnerRecord) -> RunnerRecord:
    """The record without an id: it is not believed whom that would delete, while the name is the run's own."""
    # A runner whose id was learnt has appeared, so if it is not listed there is nothing to wait for.
    asked = runner.asked if runner.id is None else 0.0
    return runner.model_copy(update={"id": None, "asked": asked})
