"""Which runners are deleted, one by one, against the embedded GitHub."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ghrunner_vm.clock import Clock
from ghrunner_vm.github.client import GitHub
from ghrunner_vm.github.models import Runner
from ghrunner_vm.lifecycle.ownership import Owner, Registered
from ghrunner_vm.lifecycle.pruning import Choice, Pruned, prune
from ghrunner_vm.simulator.model import Registration, Scope
from ghrunner_vm.simulator.server import Simulator
from tests.integration.virtual_clock import VirtualTime
from tests.unit.github_on_loopback import github_on_loopback

OLD = Runner(id=1, name="old-1", os="linux", status="offline", busy=False, version="2.337.0")
NEW = OLD.model_copy(update={"os": "unknown", "version": None})
NAMED, PREFIXED = Choice(frozenset({"old-1"})), Choice(prefix="old-")


@pytest.mark.parametrize(
    ("choice", "runner", "owner", "goes"),
    [
        (NAMED, OLD, Owner.UNKNOWN, True),
        (NAMED, NEW, Owner.UNKNOWN, True),
        (PREFIXED, OLD, Owner.UNKNOWN, True),
        (PREFIXED, NEW, Owner.UNKNOWN, False),
        (replace(PREFIXED, unconnected=True), NEW, Owner.UNKNOWN, True),
        *(
            (replace(choice, unconnected=True), runner, owner, False)
            for choice in (NAMED, PREFIXED)
            for runner, owner in (
                (OLD, Owner.ALIVE),
                (OLD.model_copy(update={"busy": True}), Owner.UNKNOWN),
                (OLD.model_copy(update={"status": "online"}), Owner.UNKNOWN),
            )
        ),
    ],
)
def test_who_goes(choice: Choice, runner: Runner, owner: Owner, goes: bool) -> None:
    assert runner.name in choice
    assert (choice.refusal(Registered(runner, owner)) == "") is goes


def test_who_is_meant() -> None:
    assert "old-1" not in Choice()
    assert "old-10" not in NAMED
    assert "older" not in PREFIXED


@pytest.fixture
def github(time: VirtualTime) -> Iterator[tuple[Simulator, GitHub]]:
    with github_on_loopback(time.clock) as both:
        yield both


@pytest.fixture
def time() -> VirtualTime:
    return VirtualTime()


def register(sim: Simulator, name: str) -> str:
    return sim.state.register(Scope("orgs", "demo-org"), Registration(name, 1, ("demo",)))[0].bearer


def test_a_second_between_deletions(github: tuple[Simulator, GitHub], time: VirtualTime, tmp_path: Path) -> None:
    sim, client = github
    for number in range(3):
        register(sim, f"old-{number}")
    done = list(prune(client, tmp_path, replace(PREFIXED, unconnected=True), list, time.clock))
    assert done == [Pruned(f"old-{number}", "deleted") for number in range(3)]
    assert time.slept == [1.0, 1.0]


def test_a_runner_that_comes_online_meanwhile_stays(github: tuple[Simulator, GitHub], tmp_path: Path) -> None:
    """The pause before its turn is when it connects."""
    sim, client = github
    register(sim, "old-1")
    bearer = register(sim, "old-2")

    def connect(_: float) -> None:
        sim.state.open_session(bearer, "2.337.0")

    done = list(prune(client, tmp_path, replace(PREFIXED, unconnected=True), list, Clock(sleep=connect)))
    assert done == [Pruned("old-1", "deleted"), Pruned("old-2", "kept", "it is online")]


def test_a_runner_that_goes_meanwhile(github: tuple[Simulator, GitHub], tmp_path: Path) -> None:
    sim, client = github
    register(sim, "old-1")
    register(sim, "old-2")
    done = list(
        prune(client, tmp_path, replace(PREFIXED, unconnected=True), list, Clock(sleep=lambda _: sim.state.drop(2)))
    )
    assert done == [Pruned("old-1", "deleted"), Pruned("old-2", "gone")]
