"""The runs of this host that one can ask about: those that live, those whose ghvm died, those that ended."""

import contextlib
import difflib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from ghrunner_vm import process, runs
from ghrunner_vm.errors import PermanentError, UsageError
from ghrunner_vm.history import History
from ghrunner_vm.record import RECORD, RunRecord, is_newer, read_record


class Stage(Enum):
    """Where a run stands."""

    LIVE = "live"
    DEAD = "dead"
    """Its ghvm is gone without an end; or it ended, and GitHub may still hold its registration. gc looks after it."""
    ENDED = "ended"
    TRIAL = "trial"
    """No run at all: a `ghvm token` is at work."""


@dataclass(frozen=True)
class Entry:
    """A run that can be read."""

    path: Path
    record: RunRecord
    stage: Stage

    @property
    def id(self) -> str:
        return self.record.id


@dataclass(frozen=True)
class Unreadable:
    """A directory among the runs that tells nothing, and why."""

    path: Path
    why: str

    @property
    def words(self) -> str:
        """What a person is told of it."""
        return f"{self.path.name} cannot be read: {self.why}"


@dataclass(frozen=True)
class Ledger:
    """What is written in the directory of runs and in the history. Raises PermanentError if that may not be read."""

    runs: Path
    history: History

    def present(self) -> list[Entry]:
        """Live and dead runs and what is at work besides, the oldest first."""
        with _readable(self.runs):
            records = [(path, read_record(path)) for path in runs.directories(self.runs)]
        found = [Entry(path, record, _stage(record)) for path, record in records if record is not None]
        return sorted(found, key=lambda entry: entry.record.created)

    def live(self) -> list[Entry]:
        """Runs whose ghvm is alive, the oldest first."""
        return [entry for entry in self.present() if entry.stage is Stage.LIVE]

    def over(self) -> list[Entry]:
        """Runs that have ended or died, the newest first."""
        dead = [entry for entry in self.present() if entry.stage is Stage.DEAD]
        with _readable(self.history.directory):
            kept = [(box.path, box.record) for box in self.history.list()]
        ended = [Entry(path, record, Stage.ENDED) for path, record in kept if record is not None]
        return sorted(dead + ended, key=lambda entry: entry.record.ended or entry.record.since, reverse=True)

    def unreadable(self) -> Iterator[Unreadable]:
        """What lies among the runs or in the history and is none that this ghvm can read."""
        for directory in (self.runs, self.history.directory):
            with _readable(directory):
                for path in runs.directories(directory):
                    if not path.name.startswith(runs.NEWBORN) and read_record(path) is None:
                        with contextlib.suppress(FileNotFoundError):  # it has ended meanwhile
                            yield Unreadable(path, _why_unreadable(path))

    def last(self) -> Entry:
        """The last run that is over, the only live one if none is. Raises UsageError if there is none."""
        over = self.over()
        return over[0] if over else only(self.live(), "RUN")

    def find(self, name: str | None) -> Entry:
        """The run of this name, or of which this is the beginning. Without a name: the only live one, else the last.

        Raises UsageError, which offers the nearest names, if there is none or if there are several.
        """
        live, over = self.live(), self.over()
        if name is None:
            return only(live, "RUN") if live or not over else over[0]
        _check(name)
        if entry := next((entry for entry in [*live, *over] if entry.id == name), None):
            return entry
        for group in (live, over):
            if begun := [entry for entry in group if entry.id.startswith(name)]:
                return only(begun, name)
        raise unknown(name, [*live, *over], self.unreadable())

    def find_live(self, name: str | None) -> Entry:
        """As `find`, but only among live runs."""
        live = self.live()
        if name is None:
            return only(live, "RUN")
        _check(name)
        begun = [entry for entry in live if entry.id == name] or [e for e in live if e.id.startswith(name)]
        if begun:
            return only(begun, name)
        if ended := [entry for entry in self.over() if entry.id == name]:
            raise UsageError(f"the run {name} is over", resolution=f"See what became of it: ghvm why {ended[0].id}")
        raise unknown(name, live, self.unreadable())


def _check(name: str) -> None:
    if not name:  # every name begins with it
        raise UsageError("the name of the run is empty", resolution="Name the run: `ghvm ps` and `ghvm history` do.")


def only(entries: Sequence[Entry], name: str) -> Entry:
    """The one entry there is. Raises UsageError otherwise."""
    if len(entries) == 1:
        return entries[0]
    if not entries:
        raise UsageError("there is no run on this host", resolution="See `ghvm history` for what has been.")
    names = ", ".join(entry.id for entry in entries)
    brief = "there are several runs" if name == "RUN" else f"several runs begin with {name}"
    raise UsageError(brief, details=names, resolution="Name one of them.")


def unknown(name: str, entries: Sequence[Entry], unreadable: Iterator[Unreadable]) -> UsageError:
    """The error for a name that no run has."""
    if found := next((one for one in unreadable if one.path.name == name), None):
        return UsageError(f"the run {found.words}", details=str(found.path))
    near = difflib.get_close_matches(name, [entry.id for entry in entries], n=3, cutoff=0.4)
    resolution = f"Did you mean {', '.join(near)}?" if near else "See `ghvm ps` and `ghvm history` for the names."
    return UsageError(f"there is no run {name}", resolution=resolution)


def _stage(record: RunRecord) -> Stage:
    alive = record.boot_id == process.boot_id() and record.supervisor.alive()
    if not alive:
        return Stage.DEAD
    return Stage.TRIAL if record.trial else Stage.LIVE


def _why_unreadable(path: Path) -> str:
    owner = path.lstat().st_uid
    if owner != os.geteuid():
        return f"it belongs to user {owner}"
    if is_newer(path):
        return "a newer ghvm has made it"
    return f"its {RECORD} is missing or damaged"


@contextlib.contextmanager
def _readable(directory: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise PermanentError(
            f"The runs in {directory} are not yours to see",
            details=f"{error.filename}: {error.strerror}",
            resolution="Ask as the user whose runs they are, with sudo for those of a system service.",
        ) from error
