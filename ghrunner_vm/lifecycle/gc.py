"""Removes what dead runs left: virtual machines, disks, sockets, registrations.

It may run as root and trusts nothing it reads: paths come from a directory's own name, links are not followed,
owners are checked, and a process is ended through a pidfd after its start time has matched.
"""

import contextlib
import os
import select
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ghrunner_vm import process, runs
from ghrunner_vm.clock import SYSTEM, Clock
from ghrunner_vm.errors import GhvmError
from ghrunner_vm.github.client import GitHub
from ghrunner_vm.lifecycle.registration import release_recorded
from ghrunner_vm.runs import ProcessRecord, RunnerRecord, RunRecord

Fate = Literal["removed", "pending", "kept"]
_NEWBORN_SECONDS = 60.0
_KILL_SECONDS = 10.0


@dataclass(frozen=True)
class Collected:
    """What became of the remains of one run; `why` says what is pending and why something was kept."""

    id: str
    fate: Fate
    why: str = ""


def collect(
    directory: Path, sockets: Path, github: Callable[[RunnerRecord], GitHub | None], clock: Clock = SYSTEM
) -> Iterator[Collected]:
    """Go through all runs and clear up after those whose supervisor is dead. Live runs are left alone, in silence.

    `github` gives a client for a recorded registration, or None when its scope is not the one configured here.
    """
    for path in runs.directories(directory):
        try:
            collected = _directory(path, sockets, github, clock)
        except FileNotFoundError:
            continue  # its own run, or another gc, has removed it meanwhile
        except OSError as error:
            collected = Collected(path.name, "kept", f"it cannot be removed: {error}")
        if collected is not None:
            yield collected


def _directory(
    path: Path, sockets: Path, github: Callable[[RunnerRecord], GitHub | None], clock: Clock
) -> Collected | None:
    if path.lstat().st_uid != os.geteuid():
        return Collected(path.name, "kept", "it belongs to another user")
    if path.name.startswith(runs.NEWBORN):
        return _newborn(path, clock)
    return _run(path, sockets, github, clock)


def _newborn(path: Path, clock: Clock) -> Collected | None:
    # Between its making and its lock a new run is bare for an instant; only an old one is a leftover.
    if clock.wall() - path.lstat().st_mtime < _NEWBORN_SECONDS:
        return None
    with runs.adopt(path) as lock:
        if lock is None:
            return None
        runs.remove(path)
    return Collected(path.name, "removed")


def _run(path: Path, sockets: Path, github: Callable[[RunnerRecord], GitHub | None], clock: Clock) -> Collected | None:
    record = runs.read(path)
    if record is not None:
        _end_orphan(record)
    with runs.adopt(path) as lock:
        if lock is None:
            return None
        record = runs.read(path)  # the run may have written its last word while we waited
        why = "" if record is None else _release(record, github, clock.wall())
        (sockets / f"{path.name}.sock").unlink(missing_ok=True)
        runs.remove(path, keep_record=bool(why))
    return Collected(path.name, "pending" if why else "removed", why)


def _end_orphan(record: RunRecord) -> None:
    """End the VMM of a dead supervisor. The kernel does so itself; this is for the case that it could not."""
    if record.vmm is None or record.boot_id != process.boot_id() or record.supervisor.alive():
        return
    end_process(record.vmm)


def end_process(target: ProcessRecord) -> None:
    """SIGKILL exactly this process, if it still is this process and its user is not a third party's."""
    try:
        pidfd = os.pidfd_open(target.pid)
    except (ProcessLookupError, OSError):
        return
    try:
        # The descriptor pins the process: what matches now is what the signal hits.
        if target.alive() and _is_vmm(target.pid):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                select.select([pidfd], [], [], _KILL_SECONDS)
    finally:
        os.close(pidfd)


def _is_vmm(pid: int) -> bool:
    """Whether a process is a QEMU: a record is never reason enough to end anything else."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").startswith("qemu-system")
    except OSError:
        return False


def _release(record: RunRecord, github: Callable[[RunnerRecord], GitHub | None], now: float) -> str:
    """Why the registration is still there; empty if it is not."""
    if record.runner is None or record.runner.state == "released":
        return ""
    try:
        client = github(record.runner)
        if client is None:
            return (
                f"its registration is in {record.runner.scope} at {record.runner.api_url}, which is not configured here"
            )
        released = release_recorded(client, record.runner, now)
    except GhvmError as error:
        return f"its registration could not be deleted: {error.brief}"
    if released:
        return ""
    return (
        "its registration may still appear" if record.runner.id is None else "GitHub believes that its job still runs"
    )
