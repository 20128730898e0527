"""Stops a live run from another process, and waits for its end."""

import contextlib
import os
import re
import select
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ghrunner_vm.clock import SYSTEM, Clock
from ghrunner_vm.errors import GhvmError, InfrastructureError
from ghrunner_vm.ledger import Entry, Ledger, Stage
from ghrunner_vm.lifecycle.asking import ask
from ghrunner_vm.lifecycle.control import Stop
from ghrunner_vm.record import ProcessRecord, read_record

How = Literal["drain", "now", "force"]

FORCE_SECONDS = 15.0
"""What a run is given to unwind by itself before it is killed, and the kernel to end it then."""
_UNIT = re.compile(r"/(ghvm@[^/]*\.service)$", re.MULTILINE)


@dataclass(frozen=True)
class Stopped:
    """How a run ended: the entry of its record, or None if nothing was kept of it."""

    id: str
    entry: Entry | None
    error: GhvmError | None = None
    """Why it may still live."""


@contextlib.contextmanager
def supervisor(record: ProcessRecord) -> Iterator[int | None]:
    """A pidfd of that very process; None if it has ended."""
    try:
        descriptor = os.pidfd_open(record.pid)
    except ProcessLookupError:
        yield None
        return
    try:
        # The descriptor pins the process; only now is it sure which one it is.
        yield descriptor if record.alive() else None
    finally:
        os.close(descriptor)


def request(entry: Entry, sockets: Sequence[Path], how: How) -> None:
    """Ask a run to end, if it is not about to. Raises GhvmError if it cannot be asked; with `force` it is killed then.

    `sockets` are the directories in which its control socket may be.
    """
    try:
        ask(sockets, entry.id, Stop(do="stop", how=how))
    except GhvmError:
        if _is_ending(entry):
            return
        if how != "force":
            raise
        kill(entry)


def _is_ending(entry: Entry) -> bool:
    """A run's socket goes before its directory, and that before its ghvm."""
    record = read_record(entry.path)
    gone = not entry.record.supervisor.alive() or not entry.path.exists()
    return gone or (record is not None and record.ended is not None)


def kill(entry: Entry) -> None:
    """SIGKILL the run's ghvm; its machine dies with it and gc does the rest."""
    with supervisor(entry.record.supervisor) as pidfd:
        if pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)


def wait(entry: Entry, until: float | None, clock: Clock = SYSTEM) -> Iterator[None]:
    """Yields about each second until the run's ghvm has ended.

    Raises InfrastructureError if it has not by the time `until` of the monotonic clock; None waits for ever.
    """
    with supervisor(entry.record.supervisor) as pidfd:
        while pidfd is not None:
            left = 1.0 if until is None else min(1.0, until - clock.monotonic())
            if select.select([pidfd], [], [], max(0.0, left))[0]:
                return
            if left <= 0:
                raise InfrastructureError(
                    f"{entry.id} has not ended in time",
                    resolution="It goes on ending. See `ghvm ps`; `--now` does not wait for its job.",
                )
            yield


def outcome(ledger: Ledger, run_id: str) -> Stopped:
    """What became of a run whose ghvm has ended."""
    ended = (entry for entry in ledger.over() if entry.id == run_id and entry.stage is not Stage.LIVE)
    return Stopped(run_id, next(ended, None))


def unit(entry: Entry) -> str | None:
    """The systemd unit that the run's ghvm is the main process of, and that would start another; None if none is."""
    try:
        groups = Path(f"/proc/{entry.record.supervisor.pid}/cgroup").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = _UNIT.search(groups)
    return found[1] if found else None


def kill_late(entries: Sequence[Entry], clock: Clock = SYSTEM) -> None:
    """Wait for runs that were asked to end by force, and kill those that cannot do it by themselves."""
    until = clock.monotonic() + FORCE_SECONDS
    for entry in entries:
        try:
            for _ in wait(entry, until, clock):
                continue
        except InfrastructureError:
            kill(entry)
