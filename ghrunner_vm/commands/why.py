"""`ghvm why`: what became of a run, in plain words."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import click

from ghrunner_vm import app, config
from ghrunner_vm.clock import SYSTEM
from ghrunner_vm.commands.history import facts
from ghrunner_vm.commands.options import state_option
from ghrunner_vm.console import Console
from ghrunner_vm.ledger import Entry, Stage
from ghrunner_vm.lifecycle.postmortem import last, why_of
from ghrunner_vm.lifecycle.reason import Reason
from ghrunner_vm.record import MachineRecord, Peaks, RefusedRecord, RunRecord
from ghrunner_vm.runs import CONSOLE
from ghrunner_vm.units import format_seconds, format_size, format_time

_LAST_LINES = 12
_WELL = (Reason.JOB_DONE, Reason.NO_JOB)


@click.command()
@click.argument("run", required=False)
@state_option
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def why(run: str | None, state_dir: Path | None, as_json: bool) -> None:
    """Say what became of RUN and what to do about it.

    Without RUN it is the last one that is over, or the only live one if none is. RUN may be the beginning of a name
    that no other run has. The lines marked with │ are what the guest said; they are its own claims.

    \b
    Example:
      ghvm why ubuntu-24-04-vm-1f2e3d4c
    """
    console = Console()
    ledger = app.ledger(config.load({"state_dir": state_dir}))
    entry = ledger.last() if run is None else ledger.find(run)
    if run is None and entry.stage is not Stage.LIVE and (live := [one.id for one in ledger.live()]):
        console.say(f"live by now, and told of if named: {', '.join(live)}")
    if as_json:
        console.result_json({"schema": 1, "run": _live_facts(entry) if entry.stage is Stage.LIVE else facts(entry)})
        return
    for line in _story(entry):
        console.result(line)


def _live_facts(entry: Entry) -> dict[str, object]:
    record = entry.record
    return {"id": record.id, "stage": "live", "phase": record.phase, "since": record.since, "phases": record.phases}


def _story(entry: Entry) -> Iterator[str]:
    record = entry.record
    if entry.stage is Stage.LIVE:
        yield f"{record.id}: it lives, and is {record.phase} for {format_seconds(SYSTEM.wall() - record.since)}"
    else:
        yield from _end(entry)
    yield ""
    yield from _table(record)


def _end(entry: Entry) -> Iterator[str]:
    found = why_of(entry)
    yield f"{entry.id}: {found.reason.value}: {found.words}"
    if entry.record.cause:
        yield from entry.record.cause.splitlines()
    yield from (f"  │ {line}" for line in found.evidence)
    if found.reason not in _WELL and not found.evidence:
        lines = [line for line in last(entry.path, CONSOLE, 4096).splitlines() if line.strip()]
        yield from (f"  │ {line}" for line in lines[-_LAST_LINES:])
    if found.advice:
        yield f"→ {found.advice}"
    if entry.stage is Stage.DEAD and entry.record.runner is not None and entry.record.runner.state != "released":
        yield "→ GitHub may still hold its registration: `ghvm gc` asks again."


def _table(record: RunRecord) -> Iterator[str]:
    yield f"image    {record.image} {record.commit or ''}".rstrip()
    if record.job:
        yield f"job      {record.job}" + (f": {record.job_result}" if record.job_result else "")
    yield f"began    {format_time(record.created)}"
    steps = [("preparing", record.created), *record.phases.items()]
    ended = record.ended or max(at for _, at in steps)
    for (phase, at), (_, until) in itertools.pairwise([*steps, ("", ended)]):
        if until > at:
            yield f"         {format_seconds(until - at)} {phase}"
    if record.ended:
        yield f"ended    {format_time(record.ended)}"
    if record.machine and record.peaks:
        yield _took(record.machine, record.peaks)
    if record.refused:
        yield from _refused(record.refused)


def _refused(refused: RefusedRecord) -> Iterator[str]:
    spoofed = f", and {refused.spoofed} that were not from its own address" if refused.spoofed else ""
    yield f"refused  {refused.packets} packets of the guest's{spoofed}"
    yield from (f"         {destination}" for destination in refused.destinations)


def _took(machine: MachineRecord, peaks: Peaks) -> str:
    memory = f"{format_size(peaks.memory)} of memory for a ram of {format_size(machine.ram)}"
    disk = f"{format_size(peaks.disk)} of a root-disk of {format_size(machine.root_disk)}"
    return f"took     {format_seconds(peaks.cpu_seconds)} of processor time (cores: {machine.cores}), {memory}, {disk}"
