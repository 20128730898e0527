"""A run in Prometheus' text format, for the textfile collector of the node exporter. Pure.

Each service has a file of its own, and in it the state of its present or last run: names of runs would be new series
every time.
"""

from collections.abc import Iterator, Mapping

from ghrunner_vm.lifecycle.state import Phase
from ghrunner_vm.record import RunRecord

_BOOTED = ("ready", "idle", "busy")


def text(record: RunRecord, budget: Mapping[str, int]) -> str:
    """The metrics of a run. `budget` is GitHub's rate limit: `limit` and `remaining` requests, or nothing."""
    return "\n".join(_lines(record, budget)) + "\n"


def _lines(record: RunRecord, budget: Mapping[str, int]) -> Iterator[str]:
    mine = {"label": record.label}
    yield from _gauge("ghvm_run_phase", "The phase that the run is in has the value 1.")
    for phase in Phase:
        yield _sample("ghvm_run_phase", {**mine, "phase": phase.value}, float(record.phase == phase.value))
    times = {
        "ghvm_run_created_timestamp_seconds": ("When the run began.", record.created),
        "ghvm_run_phase_timestamp_seconds": ("When its phase began.", record.since),
        "ghvm_run_boot_seconds": ("From the launch of the machine until its guest was ready.", _boot(record)),
        "ghvm_run_job_seconds": ("How long the job took.", _job(record)),
    }
    if record.peaks is not None:
        times["ghvm_run_peak_memory_bytes"] = (
            "The most memory that its machine took.",
            record.peaks.memory,
        )
        times["ghvm_run_peak_disk_bytes"] = ("The most room on the disk that it took.", record.peaks.disk)
    for name, (about, value) in times.items():
        if value is not None:
            yield from _gauge(name, about)
            yield _sample(name, mine, value)
    if record.outcome is not None:
        yield from _gauge("ghvm_run_outcome", "How the run ended has the value 1.")
        yield _sample("ghvm_run_outcome", {**mine, "outcome": record.outcome}, 1)
    for key, value in budget.items():
        yield from _gauge(f"ghvm_github_requests_{key}", f"Requests to GitHub in an hour: {key}.")
        yield _sample(f"ghvm_github_requests_{key}", mine, value)


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
