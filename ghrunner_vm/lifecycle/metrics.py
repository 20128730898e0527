"""A run in Prometheus' text format, for the textfile collector of the node exporter. Pure.

Each service has a file of its own, and in it the state of its present or last run: names of runs would be new series
every time.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ghrunner_vm.lifecycle.state import Phase
from ghrunner_vm.record import RunRecord

FAILED = "failed"
"""The outcome of a run that an error ended."""
_BOOTED = ("ready", "idle", "busy")


@dataclass(frozen=True)
class Snapshot:
    """What is known of a service at a moment."""

    label: str
    record: RunRecord | None
    """Its present or last run; None if it failed before it was a run."""
    failed: float | None = None
    """When an error ended it, in seconds since 1970, which the record may not tell."""
    failures: int | None = None
    """Runs that failed since the last good one, if they are counted."""
    budget: Mapping[str, int] = field(default_factory=dict)
    """GitHub's rate limit: `limit` and `remaining` requests, or nothing."""

    @property
    def over(self) -> bool:
        """Whether the run has ended, in one way or the other."""
        return self.failed is not None or (self.record is not None and self.record.ended is not None)

    @property
    def phase(self) -> str:
        """The phase that the run is in. What an error ended did not come to its last one."""
        return Phase.DONE.value if self.over or self.record is None else self.record.phase

    @property
    def since(self) -> float | None:
        """When the phase began."""
        if self.record is None:
            return self.failed
        return self.record.since if self.record.phase == self.phase else self.record.ended or self.failed

    @property
    def outcome(self) -> str | None:
        """How the run ended: its outcome, or `failed` if an error ended it."""
        known = None if self.record is None else self.record.outcome
        return known or (FAILED if self.over else None)


def text(snapshot: Snapshot) -> str:
    """The metrics of a service."""
    return "\n".join(_lines(snapshot)) + "\n"


def _lines(snapshot: Snapshot) -> Iterator[str]:
    mine = {"label": snapshot.label}
    yield from _gauge("ghvm_run_phase", "The phase that the run is in has the value 1.")
    for phase in Phase:
        yield _sample("ghvm_run_phase", {**mine, "phase": phase.value}, float(snapshot.phase == phase.value))
    for name, about, value in _measured(snapshot):
        if value is not None:
            yield from _gauge(name, about)
            yield _sample(name, mine, value)
    if snapshot.outcome is not None:
        yield from _gauge("ghvm_run_outcome", "How the run ended has the value 1.")
        yield _sample("ghvm_run_outcome", {**mine, "outcome": snapshot.outcome}, 1)


def _measured(snapshot: Snapshot) -> Iterator[tuple[str, str, float | None]]:
    """Names, what they mean, and values, None for what is not known."""
    record = snapshot.record
    if record is not None:
        yield "ghvm_run_created_timestamp_seconds", "When the run began.", record.created
    yield "ghvm_run_phase_timestamp_seconds", "When its phase began.", snapshot.since
    if record is not None:
        about = "From the launch of the machine until its guest was ready."
        yield "ghvm_run_boot_seconds", about, _boot(record)
        yield "ghvm_run_job_seconds", "How long the job took.", _job(record)
    if record is not None and record.peaks is not None:
        yield "ghvm_run_peak_memory_bytes", "The most memory that its machine took.", record.peaks.memory
        yield "ghvm_run_peak_disk_bytes", "The most room on the disk that it took.", record.peaks.disk
    yield "ghvm_failed_runs", "Runs that failed since the last good one.", snapshot.failures
    for key, value in snapshot.budget.items():
        yield f"ghvm_github_requests_{key}", f"Requests to GitHub in an hour: {key}.", value


def _boot(record: RunRecord) -> float | None:
    began = record.phases.get("booting")
    ready = [record.phases[phase] for phase in _BOOTED if phase in record.phases]
    return min(ready) - began if began is not None and ready else None


def _job(record: RunRecord) -> float | None:
    began = record.phases.get("busy")
    over = [at for phase, at in record.phases.items() if phase in ("powering-off", "done", "settling")]
    return min(over) - began if began is not None and over else None


def _gauge(name: str, about: str) -> Iterator[str]:
    yield f"# HELP {name} {about}"
    yield f"# TYPE {name} gauge"


def _sample(name: str, labels: Mapping[str, str], value: float) -> str:
    written = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
    return f"{name}{{{written}}} {value:.3f}".removesuffix(".000")


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
