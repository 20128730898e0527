"""Stops a live run from another process, and waits for its end."""

import contextlib
import os
import re
import select
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ghrunner_vm.clock import SYSTEM, Clock
from ghrunner_vm.errors import GhvmError, InfrastructureError
from ghrunner_vm.ledger import Entry, Ledger, Stage
from ghrunner_vm.lifecycle.asking import ask
from ghrunner_vm.lifecycle.control import Stop
from ghrunner_vm.record import ProcessRecord

How = Literal["drain", "now", "force"]

_FORCE_SECONDS = 15.0
"""What a run is given to unwind by itself before it is killed."""
_UNIT = re.compile(r"/(ghvm@[^/]*\.service)$", re.MULTILINE)


@dataclass(frozen=True)
class Stopped:
    """How a run ended: the entry of its record, or None if nothing was kept of it."""

    id: str
    entry: Entry | None


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


def request(entry: Entry, sockets: Path, how: How) -> None:
    """Ask a run to end. Raises GhvmError if it cannot be asked; with `force` it is killed then."""
    try:
        ask(sockets / f"{entry.id}.sock", Stop(do="stop", how=how))
    except GhvmError:
        if how != "force":
            raise
        kill(entry)


def kill(entry: Entry) -> None:
    """SIGKILL the run's ghvm; its machine dies with it and gc does the rest."""
    with supervisor(entry.record.supervisor) as pidfd:
        if pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)


def wait(entry: Entry, seconds: float | None, clock: Clock = SYSTEM) -> Iterator[None]:
    """Yields about each second until the run's ghvm has ended.

    Raises InfrastructureError if it has not within `seconds`; None waits for ever.
    """
    deadline = None if seconds is None else clock.monotonic() + seconds
    with supervisor(entry.record.supervisor) as pidfd:
        while pidfd is not None:
            left = 1.0 if deadline is None else min(1.0, deadline - clock.monotonic())
            if left <= 0:
                raise InfrastructureError(
                    f"{entry.id} has not ended within {seconds:.0f} s",
                    resolution="It goes on ending. See `ghvm ps`; `--now` does not wait for its job.",
                )
            if select.select([pidfd], [], [], left)[0]:
                return
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


def force(entry: Entry, sockets: Path) -> None:
    """End a run whatever it does: by itself if it still can, else by SIGKILL."""
    request(entry, sockets, "force")
    try:
        for _ in wait(entry, _FORCE_SECONDS):
            continue
    except InfrastructureError:
        kill(entry)
        for _ in wait(entry, _FORCE_SECONDS):
            continue
