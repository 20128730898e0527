"""`ghvm stop`: end runs, without losing a job unless asked to."""

from collections.abc import Sequence
from pathlib import Path

import click

from ghrunner_vm import app, config
from ghrunner_vm.clock import SYSTEM
from ghrunner_vm.commands.options import state_option
from ghrunner_vm.console import Console
from ghrunner_vm.errors import ExitCode, GhvmError, InfrastructureError, UsageError
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
    as asked for, 4 if one could not be asked or has not ended within the timeout, and that of a run which ended badly
    (`ghvm --help`).

    \b
    Examples:
      ghvm stop ubuntu-24-04-vm-1f2e3d4c
      ghvm stop --all --timeout 3600
    """
    console = Console()
    settings = config.load({"state_dir": state_dir})
    ledger, sockets = app.ledger(settings), config.runtime_directories(settings)
    how = _how(now=now, force=force)
    stopped = _stop(console, ledger, _chosen(ledger, names, every=every), sockets, how, timeout)
    if as_json:
        console.result_json({"schema": 1, "runs": [_facts(one) for one in stopped]})
    else:
        for one in stopped:
            if one.error is None:
                console.result(f"{one.id}: {_words(one)}")
    _judge(stopped, how)


def _how(*, now: bool, force: bool) -> How:
    if now and force:
        raise UsageError("--now and --force together", resolution="Give either.")
    return "force" if force else "now" if now else "drain"


def _chosen(ledger: Ledger, names: tuple[str, ...], *, every: bool) -> list[Entry]:
    if every and names:
        raise UsageError("--all and names together", resolution="Give either.")
    if every:
        return ledger.live()
    if not names:
        raise UsageError("no run is named", resolution="Name runs, or give --all. `ghvm ps` shows them.")
    return list({entry.id: entry for entry in map(ledger.find_live, names)}.values())


def _stop(
    console: Console,
    ledger: Ledger,
    entries: Sequence[Entry],
    sockets: Sequence[Path],
    how: How,
    timeout: float | None,
) -> list[Stopped]:
    """Ask all, then wait for those that could be asked until one deadline. What goes wrong with one is its own."""
    refusals = {entry.id: error for entry in entries if (error := _ask(console, entry, sockets, how))}
    if how == "force":
        stopping.kill_late([entry for entry in entries if entry.id not in refusals])
        timeout = stopping.FORCE_SECONDS if timeout is None else timeout
    until = None if timeout is None else SYSTEM.monotonic() + timeout
    return [
        Stopped(entry.id, None, refusals[entry.id]) if entry.id in refusals else _ended(console, ledger, entry, until)
        for entry in entries
    ]


def _ask(console: Console, entry: Entry, sockets: Sequence[Path], how: How) -> GhvmError | None:
    if unit := stopping.unit(entry):
        console.warn(f"{entry.id} belongs to {unit}, which starts another: `systemctl stop {unit}` ends both")
    try:
        stopping.request(entry, sockets, how)
    except GhvmError as error:
        return error
    return None


def _ended(console: Console, ledger: Ledger, entry: Entry, until: float | None) -> Stopped:
    try:
        _wait(console, ledger, entry, until)
    except GhvmError as error:
        return Stopped(entry.id, None, error)
    return stopping.outcome(ledger, entry.id)


def _wait(console: Console, ledger: Ledger, entry: Entry, until: float | None) -> None:
    told = None
    with console.waiting(f"{entry.id}: asked to end") as show:
        for seconds, _ in enumerate(stopping.wait(entry, until), 1):
            now = next((one.record for one in ledger.present() if one.id == entry.id), None)
            phase = "gone" if now is None else f"{now.phase} {now.job or ''}".strip()
            show(f"{entry.id}: {phase}, {format_seconds(seconds)}", phase != told)
            told = phase


def _facts(stopped: Stopped) -> dict[str, object]:
    record = stopped.entry.record if stopped.entry else None
    return {
        "id": stopped.id,
        "outcome": record and record.outcome,
        "job-result": record and record.job_result,
        "error": stopped.error and stopped.error.brief,
    }


def _words(stopped: Stopped) -> str:
    if stopped.entry is None:
        return "ended"
    record = stopped.entry.record
    return f"{record.outcome or 'killed'}" + (f" ({record.job_result})" if record.job_result else "")


def _judge(stopped: Sequence[Stopped], how: How) -> None:
    if errors := [one.error for one in stopped if one.error is not None]:
        raise errors[0] if len(errors) == 1 else _together(errors)
    if how != "drain":
        return
    for one in stopped:
        label = one.entry.record.outcome if one.entry else None
        code = ExitCode.OK if one.entry is None else _CODES.get(label or "", ExitCode.ERROR)
        if code != ExitCode.OK:
            error = GhvmError(f"{one.id} did not end well: {_words(one)}", resolution=f"See `ghvm why {one.id}`.")
            error.exit_code = code
            raise error


def _together(errors: Sequence[GhvmError]) -> InfrastructureError:
    advice = dict.fromkeys(error.resolution for error in errors if error.resolution)
    return InfrastructureError(
        f"{len(errors)} runs have not ended",
        details="\n".join(error.brief for error in errors),
        resolution="\n".join(advice),
    )
