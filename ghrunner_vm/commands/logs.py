"""`ghvm logs`: what a run, its guest and its runner said."""

import codecs
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import click

from ghrunner_vm import app, config, runs
from ghrunner_vm.clock import SYSTEM
from ghrunner_vm.commands.options import state_option
from ghrunner_vm.console import Console, plain
from ghrunner_vm.errors import UsageError
from ghrunner_vm.ledger import Entry, Ledger, Stage
from ghrunner_vm.lifecycle.following import content, follow

_LONGEST = 64 << 10
"""So many letters without the end of their line are shown as they are."""


@click.command()
@click.argument("run", required=False)
@click.option("-f", "--follow", "following", is_flag=True, help="Go on until the run is over.")
@click.option("--events", is_flag=True, help="What happened to the run, with times, instead of the guest's console.")
@click.option("--runner", is_flag=True, help="What the runner said, instead of the guest's console.")
@state_option
@click.option("--json", "as_json", is_flag=True, help="With --events: one JSON object a line.")
def logs(run: str | None, following: bool, events: bool, runner: bool, state_dir: Path | None, as_json: bool) -> None:
    """Show the guest's console of RUN: of the only live run, else of the last that ended, if none is named.

    All of it is what the guest wrote, without the control sequences that would drive this terminal. A console has at
    most the last 8 MiB, and so has what the runner said.

    \b
    Examples:
      ghvm logs -f
      ghvm logs --events ubuntu-24-04-vm-1f2e3d4c
    """
    if (events and runner) or (as_json and not events):
        raise UsageError("these options do not go together", resolution="Give --events [--json], --runner, or neither.")
    ledger = app.ledger(config.load({"state_dir": state_dir}))
    entry = ledger.find(run)
    name = runs.EVENTS if events else runs.RUNNER if runner else runs.CONSOLE
    show = Console()
    blocks = _blocks(ledger, entry, name, following=following)
    try:
        for piece in _events(blocks, entry, as_json=as_json) if events else pieces(blocks):
            show.result(piece, end="")
    except KeyboardInterrupt:
        return
    if following:
        show.say(f"{entry.id} is over: ghvm why {entry.id}")


def _blocks(ledger: Ledger, entry: Entry, name: str, *, following: bool) -> Iterator[bytes]:
    if not following or entry.stage is not Stage.LIVE:
        return content(entry.path / name)

    def over() -> bool:
        return not entry.record.supervisor.alive()

    return follow(_locate(ledger, entry, name), over, SYSTEM.sleep)


def _locate(ledger: Ledger, entry: Entry, name: str) -> Callable[[], Path]:
    def locate() -> Path:
        # At its end a run moves to the history.
        return (entry.path if entry.path.exists() else ledger.history.directory / entry.id) / name

    return locate


def pieces(blocks: Iterator[bytes]) -> Iterator[str]:
    """The blocks as plain text: lines with their ends, and parts of lines that are long or get no end for now.

    An empty block says that nothing comes for a moment: what is there may be a prompt.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    rest, cut = "", False
    for block in blocks:
        *lines, rest = (rest + decoder.decode(block)).split("\n")
        yield from (f"{plain(line)}\n" for line in lines)
        cut = cut and not lines
        if rest and (not block or len(rest) > _LONGEST):
            yield plain(rest)
            rest, cut = "", True
    if rest or cut:
        yield f"{plain(rest)}\n"


def _events(blocks: Iterator[bytes], entry: Entry, *, as_json: bool) -> Iterator[str]:
    for line in pieces(block for block in blocks if block):  # nothing is cut that is being written just now
        try:
            event = json.loads(line)
            yield line if as_json else f"{_event(event, entry.record.created)}\n"
        except (ValueError, KeyError, TypeError):  # cut off by a full disk, or in the middle of being written
            continue


def _event(event: dict[str, object], began: float) -> str:
    at = float(str(event["time"]))
    clock = datetime.fromtimestamp(at, UTC).astimezone().strftime("%H:%M:%S")
    words = " ".join(str(event[key]) for key in ("event", "detail") if event.get(key))
    return f"{clock} {at - began:+9.1f} s  {event.get('phase') or '':12} {words}".rstrip()
