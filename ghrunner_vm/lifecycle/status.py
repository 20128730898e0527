"""How live runs are doing at this moment."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ghrunner_vm.ledger import Entry
from ghrunner_vm.record import RunRecord
from ghrunner_vm.runs import DISK
from ghrunner_vm.usage import Usage, usage


@dataclass(frozen=True)
class Status:
    """One live run. `usage` is None as long as it has no machine; `cpu` is in processors: 1.0 keeps one busy."""

    record: RunRecord
    usage: Usage | None
    cpu: float | None
    at: float
    """Seconds since 1970 at which it was looked at."""


def look(entries: Sequence[Entry], now: float, before: Mapping[str, Status] | None = None) -> dict[str, Status]:
    """The state of each run by its id. `cpu` is that since `before`, else that since the machine's launch."""
    found = {}
    for entry in entries:
        used = None if entry.record.vmm is None else usage(entry.record.vmm.pid, entry.path / DISK)
        earlier = None if before is None else before.get(entry.id)
        found[entry.id] = Status(entry.record, used, _cpu(entry.record, used, earlier, now), now)
    return found


def _cpu(record: RunRecord, used: Usage | None, earlier: Status | None, now: float) -> float | None:
    if used is None:
        return None
    began, spent = record.phases.get("booting", record.created), used.cpu_seconds
    if earlier is not None and earlier.usage is not None:
        began, spent = earlier.at, spent - earlier.usage.cpu_seconds
    seconds = now - began
    return max(0.0, spent / seconds) if seconds > 0 else None
