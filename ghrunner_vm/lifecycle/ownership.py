"""Whose a registered runner is, as far as the run directories of this host tell."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from ghrunner_vm import process, runs
from ghrunner_vm.github.client import GitHub
from ghrunner_vm.github.models import Runner
from ghrunner_vm.record import RunRecord, read_record


class Owner(Enum):
    """What became of the run that a runner belongs to."""

    ALIVE = "alive"
    DEAD = "dead"
    UNKNOWN = "unknown"
    """No run directory here knows its name: another host's, a person's, or one whose record is gone."""


@dataclass(frozen=True)
class Registered:
    """A runner that GitHub lists, and whose it is."""

    runner: Runner
    owner: Owner


@dataclass(frozen=True)
class Inventory:
    """The runners of a scope, and the names under which dead runs of this host have registered, listed or not."""

    runners: tuple[Registered, ...]
    dead: frozenset[str]


def take_inventory(github: GitHub, directory: Path) -> Inventory:
    """All runners in the scope of `github`. `directory` is where runs are recorded.

    Raises PermanentError if others can write to it.
    """
    # The records are read last: a run writes its own before it registers, so none that is listed is missing.
    listed = list(github.runners())
    owners = dict(_recorded(github, directory))
    runners = tuple(Registered(runner, owners.get(runner.name, Owner.UNKNOWN)) for runner in listed)
    return Inventory(runners, frozenset(name for name, owner in owners.items() if owner is Owner.DEAD))


def _recorded(github: GitHub, directory: Path) -> Iterator[tuple[str, Owner]]:
    """The registrations on record here for this scope, by the runner's name."""
    where = (github.api_url, str(github.scope))
    with contextlib.suppress(FileNotFoundError), runs.home(directory) as home:
        for path in runs.directories(home):
            record = read_record(path)
            runner = None if record is None else record.runner
            if record is None or runner is None or runner.state == "released":
                continue
            if (runner.api_url, runner.scope) == where:
                yield runner.name, Owner.ALIVE if _alive(record) else Owner.DEAD


def _alive(record: RunRecord) -> bool:
    return record.boot_id == process.boot_id() and record.supervisor.alive()
