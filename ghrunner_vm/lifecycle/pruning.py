"""Deletes registrations that nobody uses: those of dead runs of this host, and those that a person names."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ghrunner_vm.clock import SYSTEM, Clock
from ghrunner_vm.github.client import GitHub
from ghrunner_vm.github.models import Presence, Removal, Runner
from ghrunner_vm.lifecycle.gc import Collected
from ghrunner_vm.lifecycle.ownership import Inventory, Owner, Registered, take_inventory

Fate = Literal["deleted", "gone", "would delete", "kept", "pending"]
_PAUSE_SECONDS = 1.0
"""Between deletions: GitHub wants a second between calls that change something."""

_LIVE = "a run on this host is using it"
_ONLINE = "it is online"
_BUSY = "it has a job"
_NEW = "it was never online, so it may be about to start: give --unconnected to delete it all the same"


@dataclass(frozen=True)
class Choice:
    """What a person wants deleted besides the leftovers of this host, by name or by the beginning of names.

    GitHub does not tell when a runner was registered, and one that is just being started was never online. Such a
    one is deleted if it is named, and by its prefix only with `unconnected`.
    """

    names: frozenset[str] = frozenset()
    prefix: str | None = None
    unconnected: bool = False

    def __contains__(self, name: str) -> bool:
        return name in self.names or (self.prefix is not None and name.startswith(self.prefix))

    def refusal(self, one: Registered) -> str:
        """Why a chosen runner stays; empty if it goes."""
        if one.owner is Owner.ALIVE:
            return _LIVE
        if one.runner.busy:
            return _BUSY
        if one.runner.online:
            return _ONLINE
        new = one.runner.version is None and one.runner.os == "unknown"
        return _NEW if new and one.runner.name not in self.names and not self.unconnected else ""


@dataclass(frozen=True)
class Pruned:
    """What became of one runner, and why if it is not deleted."""

    name: str
    fate: Fate
    why: str = ""


def prune(
    github: GitHub,
    directory: Path,
    choice: Choice,
    collect: Callable[[], Iterable[Collected]],
    clock: Clock = SYSTEM,
) -> Iterator[Pruned]:
    """Delete what may be deleted, one after the other. `collect` is gc, which looks after the leftovers of this host.

    A runner that is online, has a job or belongs to a live run stays.
    """
    inventory = take_inventory(github, directory)
    for one in collect():
        if one.id in inventory.dead:
            yield _collected(one, inventory)
    pause = False
    for other in _chosen(inventory, choice):
        if pause:
            clock.sleep(_PAUSE_SECONDS)
        why = choice.refusal(other)
        yield Pruned(other.runner.name, "kept", why) if why else _delete(github, other.runner)
        pause = not why
    yield from _missing(inventory, choice)


def preview(github: GitHub, directory: Path, choice: Choice) -> Iterator[Pruned]:
    """What `prune` would do, without doing it."""
    inventory = take_inventory(github, directory)
    for one in inventory.runners:
        if one.owner is Owner.DEAD:
            yield Pruned(one.runner.name, "would delete", "a dead run of this host left it")
    for one in _chosen(inventory, choice):
        why = choice.refusal(one)
        yield Pruned(one.runner.name, "kept" if why else "would delete", why)
    yield from _missing(inventory, choice)


def _collected(one: Collected, inventory: Inventory) -> Pruned:
    if one.fate == "removed":
        listed = any(other.runner.name == one.id for other in inventory.runners)
        return Pruned(one.id, "deleted" if listed else "gone")
    return Pruned(one.id, one.fate, one.why)


def _chosen(inventory: Inventory, choice: Choice) -> list[Registered]:
    """Those of dead runs are not for a person to choose: gc has dealt with them."""
    return [one for one in inventory.runners if one.owner is not Owner.DEAD and one.runner.name in choice]


def _missing(inventory: Inventory, choice: Choice) -> Iterator[Pruned]:
    there = {one.runner.name for one in inventory.runners} | inventory.dead
    return (Pruned(name, "gone", "GitHub lists no such runner") for name in sorted(choice.names - there))


def _delete(github: GitHub, runner: Runner) -> Pruned:
    """Look once more, since it may have come online meanwhile, and delete it."""
    sight = github.sight(runner.id, runner.name)
    if sight.presence is Presence.GONE:
        return Pruned(runner.name, "gone")
    if sight.busy or sight.presence is Presence.ONLINE:
        return Pruned(runner.name, "kept", _BUSY if sight.busy else _ONLINE)
    removal = github.remove(runner.id, runner.name)
    if removal is Removal.BUSY:
        return Pruned(runner.name, "pending", "GitHub believes that its job still runs")
    return Pruned(runner.name, "deleted" if removal is Removal.REMOVED else "gone")
