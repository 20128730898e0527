"""`ghvm stop`: end runs, without losing a job unless asked to."""

from pathlib import Path

import click

from ghrunner_vm import app, config
from ghrunner_vm.commands.options import state_option
from ghrunner_vm.console import Console
from ghrunner_vm.errors import ExitCode, GhvmError, UsageError
from ghrunner_vm.ledger import Entry, Ledger
from ghrunner_vm.lifecycle import stopping
from ghrunner_vm.lifecycle.outcome import Outcome
from ghrunner_vm.lifecycle.stopping import How, Stopped
from ghrunner_vm.units import format_seconds

_CODES = {outcome.label: outcome.exit_code for outcome in Outcome}


@click.command()
@click.argument("names", metavar="RUN…", nargs=-1)
@click.option("--all", "every", is_flag=True, help="All live runs.")
@click.option("--now", is_flag=True, help="Power off now: a running job is lost.")
@click.option("--force", is_flag=True, help="End it at once, whatever hangs; its registration is left to `ghvm gc`.")
@click.option("--timeout", type=click.FloatRange(0), metavar="SECONDS", help="Longest wait.  [default: no limit]")
@state_option
@click.option("--json", "as_json", is_flag=True, help="Print what became of them as JSON.")
def stop(
    names: tuple[str, ...],
    every: bool,
    now: bool,
    force: bool,
    timeout: float | None,
    state_dir: Path | None,
    as_json: bool,
) -> None:
    """Drain runs and wait for their end: a job that runs is finished, an idle runner is deregistered first.

    RUN may be the beginning of a name. Ctrl-C ends the wait only: the drain goes on. The exit code is 0 if all ended
    as asked for, 4 if one has not ended within the timeout, and that of a run which ended badly (`ghvm run --help`).

    \b
    Examples:
      ghvm stop ubuntu-24-04-vm-1f2e3d4c
      ghvm stop --all --timeout 3600
    """
    console = Console()
    settings = config.load({"state_dir": state_dir})
    ledger, sockets = app.ledger(settings), config.runtime_directory(settings)
    how: How = "force" if force else "now" if now else "drain"
    entries = _chosen(ledger, names, every=every)
    for entry in entries:
        _ask(console, entry, sockets, how)
    stopped = [_ended(console, ledger, entry, timeout) for entry in entries]
    if as_json:
        console.result_json({"schema": 1, "runs": [_facts(one) for one in stopped]})
    else:
        for one in stopped:
            console.result(f"{one.id}: {_words(one)}")
    _judge(stopped, how)


def _chosen(ledger: Ledger, names: tuple[str, ...], *, every: bool) -> list[Entry]:
    if every and names:
        raise UsageError("--all and names together", resolution="Give either.")
    if every:
        return ledger.live()
    if not names:
        raise UsageError("no run is named", resolution="Name runs, or give --all. `ghvm ps` shows them.")
    return list({entry.id: entry for entry in map(ledger.find_live, names)}.values())


def _ask(console: Console, entry: Entry, sockets: Path, how: How) -> None:
    if unit := stopping.unit(entry):
        console.warn(f"{entry.id} belongs to {unit}, which starts another: `systemctl stop {unit}` ends both")
    if how == "force":
        stopping.force(entry, sockets)
    else:
        stopping.request(entry, sockets, how)


def _ended(console: Console, ledger: Ledger, entry: Entry, timeout: float | None) -> Stopped:
    told = None
    with console.waiting(f"{entry.id}: asked to end") as show:
        for seconds, _ in enumerate(stopping.wait(entry, timeout), 1):
            now = next((one.record for one in ledger.present() if one.id == entry.id), None)
            phase = "gone" if now is None else f"{now.phase} {now.job or ''}".strip()
            show(f"{entry.id}: {phase}, {format_seconds(seconds)}", phase != told)
            told = phase
    return stopping.outcome(ledger, entry.id)


def _facts(stopped: Stopped) -> dict[str, object]:
    record = stopped.entry.record if stopped.entry else None
    return {"id": stopped.id, "outcome": record and record.outcome, "job-result": record and record.job_result}


def _words(stopped: Stopped) -> str:
    if stopped.entry is None:
        return "ended"
    record = stopped.entry.record
    return f"{record.outcome or 'killed'}" + (f" ({record.job_result})" if record.job_result else "")


def _judge(stopped: list[Stopped], how: How) -> None:
    if how != "drain":
        return
    for one in stopped:
        label = one.entry.record.outcome if one.entry else None
        code = ExitCode.OK if one.entry is None else _CODES.get(label or "", ExitCode.ERROR)
        if code != ExitCode.OK:
            error = GhvmError(f"{one.id} did not end well: {_words(one)}", resolution=f"See `ghvm why {one.id}`.")
            error.exit_code = code
            raise error
