"""Reads the black box of a run that is over and says why it ended."""

from pathlib import Path

from ghrunner_vm import process, runs
from ghrunner_vm.console import plain
from ghrunner_vm.ledger import Entry
from ghrunner_vm.lifecycle.reason import LastWords, Why, why
from ghrunner_vm.ring import tail

_ENOUGH = 256 << 10


def why_of(entry: Entry) -> Why:
    """Why the run ended, from all that is known of it."""
    rebooted = entry.record.boot_id != process.boot_id()
    return why(entry.record, last_words(entry.path), rebooted=rebooted)


def last_words(path: Path) -> LastWords:
    """The ends of the rings in the directory of a run."""
    console, runner, vmm = (last(path, name, _ENOUGH) for name in (runs.CONSOLE, runs.RUNNER, runs.VMM))
    return LastWords(console, runner, vmm)


def last(path: Path, name: str, limit: int) -> str:
    """The last `limit` bytes of a ring as plain text; empty if there is none."""
    return plain(tail(path / name, limit).decode(errors="replace"))
