"""How long a service waits before its next run: longer and longer while its runs fail one after another.

systemd's own back-off (RestartSteps=, systemd 254) counts good runs as well, and a run takes one job only.
"""

from ghrunner_vm.errors import ExitCode
from ghrunner_vm.ledger import Entry, Ledger
from ghrunner_vm.lifecycle.outcome import Outcome
from ghrunner_vm.record import RunRecord

_FIRST_SECONDS = 5.0
_LONGEST_SECONDS = 300.0
_CODES = {outcome.label: outcome.exit_code for outcome in Outcome}
_NO_FAILURE = (ExitCode.OK, ExitCode.JOB_TIMEOUT, ExitCode.INTERRUPTED)


def pause(ledger: Ledger, label: str, now: float) -> float:
    """Seconds to wait before the next run for `label`: 0 after a good one, then 5, 10, 20 … 300 since the last end."""
    last = [entry for entry in ledger.over() if entry.record.label == label]
    failures = next((number for number, entry in enumerate(last) if not _failed(entry)), len(last))
    if failures == 0:
        return 0.0
    since = now - (last[0].record.ended or last[0].record.since)
    wanted = min(_FIRST_SECONDS * float(1 << min(failures - 1, 16)), _LONGEST_SECONDS)
    return max(0.0, wanted - max(0.0, since))


def _failed(entry: Entry) -> bool:
    return _code(entry.record) not in _NO_FAILURE


def _code(record: RunRecord) -> int:
    if record.outcome is not None:
        return _CODES.get(record.outcome, ExitCode.ERROR)
    return ExitCode.ERROR if record.failure is None else record.failure.exit_code
