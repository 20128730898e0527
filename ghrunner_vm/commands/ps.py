"""`ghvm ps`: the runs of this host."""

import contextlib
from collections.abc import Mapping
from pathlib import Path

import click

from ghrunner_vm import app, config
from ghrunner_vm.clock import SYSTEM, Clock
from ghrunner_vm.commands.options import state_option
from ghrunner_vm.console import Console
from ghrunner_vm.images.ageing import GITHUB_DAYS, days_left
from ghrunner_vm.ledger import Ledger, Stage
from ghrunner_vm.lifecycle.status import Status, look
from ghrunner_vm.record import RunRecord
from ghrunner_vm.units import format_seconds, format_size, shortened

_COLUMNS = ("RUN", "PHASE", "SINCE", "JOB", "IMAGE", "CPU", "MEMORY", "DISK", "REFUSED", "SSH")


@click.command()
@click.option("--watch", is_flag=True, help="Go on showing them until Ctrl-C.")
@click.option("--interval", type=click.FloatRange(0.1, 3600), default=2.0, metavar="SECONDS", help="[default: 2]")
@state_option
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
def ps(watch: bool, interval: float, state_dir: Path | None, as_json: bool) -> None:
    """Show the runs of this host: what each does, since when, and what it takes.

    CPU is in processors: 1.0 keeps one busy, since the last look or since the launch. MEMORY and DISK are what the
    machine takes of this host, and of what the spec allows. REFUSED are packets of the guest's that went where it may
    not go: see `ghvm why`. IMAGE tells how long the runner in it can still be used, if that is less than 30 days. SSH
    is the port on 127.0.0.1 that leads to the guest.

    \b
    Example:
      ghvm ps --watch
    """
    console = Console()
    ledger = app.ledger(config.load({"state_dir": state_dir}))
    seen = look(ledger.live(), SYSTEM.wall())
    if as_json:
        console.result_json({"schema": 1, "runs": [_facts(status) for status in seen.values()]})
    elif watch:
        _watch(console, ledger, seen, interval)
    else:
        console.table(_COLUMNS, _rows(seen))
        _tell_of_the_rest(console, ledger, seen)


def _watch(console: Console, ledger: Ledger, seen: Mapping[str, Status], interval: float) -> None:
    with contextlib.suppress(KeyboardInterrupt), console.redrawn(_COLUMNS) as show:
        while True:
            show(_rows(seen), "" if seen else "no runs")
            SYSTEM.sleep(interval)
            seen = look(ledger.live(), SYSTEM.wall(), seen)


def _tell_of_the_rest(console: Console, ledger: Ledger, seen: Mapping[str, Status]) -> None:
    if not seen:
        console.say(f"no runs in {ledger.runs}")
    dead = [entry.id for entry in ledger.present() if entry.stage is Stage.DEAD]
    if dead:
        console.warn(f"not cleared up yet, see `ghvm gc`: {', '.join(dead)}")
    for one in ledger.unreadable():
        if one.path.parent == ledger.runs:
            console.warn(one.words)


def _rows(seen: Mapping[str, Status]) -> list[list[str]]:
    return [_row(status) for status in seen.values()]


def _row(status: Status) -> list[str]:
    record, used = status.record, status.usage
    limits = record.machine
    return [
        record.id,
        record.phase,
        format_seconds(max(0.0, status.at - record.since)),
        shortened(record.job or "-"),
        _image(record, status.at),
        "-" if status.cpu is None else f"{status.cpu:.1f}" + (f" of {limits.cores}" if limits else ""),
        "-" if used is None else _of(used.memory, limits.ram if limits else None),
        "-" if used is None else _of(used.disk, limits.root_disk if limits else None),
        str(record.refused.packets) if record.refused else "-",
        str(record.ssh_port or "-"),
    ]


def _image(record: RunRecord, now: float) -> str:
    """Its name and commit, and how long the runner in it can still be used once that is not long any more."""
    left = _days_left(record, now)
    runner = "" if left is None or left >= GITHUB_DAYS else f"(runner: {_days(left)} left)"
    return " ".join(filter(None, (record.image, (record.commit or "")[:12], runner)))


def _days_left(record: RunRecord, now: float) -> int | None:
    if record.runner_until is None:
        return None
    return days_left(record.runner_until, Clock(wall=lambda: now).today())


def _days(number: int) -> str:
    return "1 day" if number == 1 else f"{number} days"


def _of(size: int, limit: int | None) -> str:
    return format_size(size) + (f" of {format_size(limit)}" if limit else "")


def _facts(status: Status) -> dict[str, object]:
    record, used, limits = status.record, status.usage, status.record.machine
    return {
        "id": record.id,
        "phase": record.phase,
        "since": record.since,
        "created": record.created,
        "label": record.label,
        "job": record.job,
        "image": record.image,
        "commit": record.commit,
        "runner-days-left": _days_left(record, status.at),
        "cpu": None if status.cpu is None else round(status.cpu, 2),
        "cpu-seconds": None if used is None else round(used.cpu_seconds, 2),
        "cores": limits.cores if limits else None,
        "memory": used.memory if used else None,
        "ram": limits.ram if limits else None,
        "disk": used.disk if used else None,
        "root-disk": limits.root_disk if limits else None,
        "refused": record.refused.model_dump(by_alias=True) if record.refused else None,
        "ssh-port": record.ssh_port,
        "pid": record.supervisor.pid,
    }
