"""`ghvm history`: the runs that are over."""

from pathlib import Path

import click

from ghrunner_vm import app, config
from ghrunner_vm.commands.options import state_option
from ghrunner_vm.console import Console
from ghrunner_vm.ledger import Entry, Stage
from ghrunner_vm.lifecycle.postmortem import why_of
from ghrunner_vm.units import format_seconds, format_size, format_time, shortened

_COLUMNS = ("RUN", "ENDED", "TOOK", "WHY", "OUTCOME", "JOB", "CPU", "MEMORY", "DISK")


@click.command()
@click.option(
    "-n", "--last", type=click.IntRange(1), metavar="N", help="Only the last N.  [default: all that are kept]"
)
@state_option
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
def history(last: int | None, state_dir: Path | None, as_json: bool) -> None:
    """Show the runs that are over, the last one first: why each ended, and the most that it took of this host.

    The records of 50 runs are kept, or 200 MiB of them (history-runs, history-size). `ghvm why RUN` explains one,
    `ghvm logs RUN` has its last words.

    \b
    Example:
      ghvm history --last 10
    """
    console = Console()
    ledger = app.ledger(config.load({"state_dir": state_dir}))
    entries = ledger.over()[:last]
    for one in ledger.unreadable():
        console.warn(one.words)
    if as_json:
        console.result_json({"schema": 1, "runs": [facts(entry) for entry in entries]})
        return
    console.table(_COLUMNS, [_row(entry) for entry in entries])
    if not entries:
        console.say(f"no run is over yet in {ledger.runs.parent}")


def facts(entry: Entry) -> dict[str, object]:
    """A run that is over, for scripts."""
    record, found = entry.record, why_of(entry)
    peaks = record.peaks
    return {
        "id": record.id,
        "stage": entry.stage.value,
        "reason": found.reason.value,
        "words": found.words,
        "outcome": record.outcome,
        "created": record.created,
        "ended": record.ended,
        "phases": record.phases,
        "label": record.label,
        "job": record.job,
        "job-result": record.job_result,
        "image": record.image,
        "commit": record.commit,
        "evidence": list(found.evidence),
        "advice": found.advice,
        "peak-cpu-seconds": None if peaks is None else round(peaks.cpu_seconds, 2),
        "peak-memory": None if peaks is None else peaks.memory,
        "peak-disk": None if peaks is None else peaks.disk,
        "refused": record.refused.model_dump(by_alias=True) if record.refused else None,
    }


def _row(entry: Entry) -> list[str]:
    record, peaks = entry.record, entry.record.peaks
    ended = record.ended
    return [
        record.id,
        format_time(ended or record.since),
        format_seconds(max(0.0, ended - record.created)) if ended else "-",
        why_of(entry).reason.value,
        record.outcome or ("not cleared up" if entry.stage is Stage.DEAD else "-"),
        shortened(" ".join(filter(None, (record.job, record.job_result))) or "-"),
        "-" if peaks is None else format_seconds(peaks.cpu_seconds),
        "-" if peaks is None else format_size(peaks.memory),
        "-" if peaks is None else format_size(peaks.disk),
    ]
