"""One registration, on record before it is asked for and until it is gone, against the embedded GitHub."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from ghrunner_vm import process, runs
from ghrunner_vm.clock import Clock
from ghrunner_vm.errors import GhvmError
from ghrunner_vm.github.client import GitHub
from ghrunner_vm.github.limits import RateLimited
from ghrunner_vm.github.models import Presence
from ghrunner_vm.lifecycle import events as ev
from ghrunner_vm.lifecycle.registration import Registration, released_at_end
from ghrunner_vm.record import ProcessRecord, RunnerRecord, RunRecord, read_record
from ghrunner_vm.runs import RunDirectory
from ghrunner_vm.simulator.faults import Rule
from ghrunner_vm.simulator.server import Simulator
from tests.integration.virtual_clock import VirtualTime
from tests.unit.github_on_loopback import CLOCK, SCOPE, github_on_loopback

ID = "demo-0001"
MINT = "*/generate-jitconfig"
NOW = CLOCK.wall()


class Scene:
    """A run and its registration at a GitHub that a test can spoil."""

    def __init__(self, simulator: Simulator, github: GitHub, run: RunDirectory, clock: Clock = CLOCK) -> None:
        self.simulator = simulator
        self.run = run
        self.trouble: list[GhvmError] = []
        self.registration = Registration(github, run, ["demo"], 1, self.trouble.append, clock)

    def recorded(self) -> RunnerRecord | None:
        """What the file says, not what the process remembers."""
        record = read_record(self.run.path)
        assert record is not None
        return record.runner

    @property
    def names(self) -> list[str]:
        return [runner.name for runner in self.simulator.state.runners()]

    def spoil(self, **rule: object) -> None:
        self.simulator.faults.add(Rule.model_validate(rule))

    def make_busy(self) -> None:
        job = self.simulator.state.enqueue(["demo"], "true")
        assert self.registration.config is not None
        self.simulator.state.assign(job.id, self.registration.config.runner_id)


def record() -> RunRecord:
    own = ProcessRecord.of(pid=2, started=1)
    fields = {"boot_id": process.boot_id(), "supervisor": own, "label": "demo", "image": "ubuntu"}
    return RunRecord.of(id=ID, since=1.0, created=1.0, **fields)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with github_on_loopback() as (simulator, github), runs.create(tmp_path, record()) as run:
        yield Scene(simulator, github, run)


@pytest.fixture
def time() -> VirtualTime:
    return VirtualTime()


@pytest.fixture
def timed(tmp_path: Path, time: VirtualTime) -> Iterator[Scene]:
    """A scene in which pauses are remembered, and pass at once."""
    with github_on_loopback(time.clock) as (simulator, github), runs.create(tmp_path, record()) as run:
        yield Scene(simulator, github, run, time.clock)


def test_from_birth_to_removal(scene: Scene) -> None:
    registration = scene.registration
    assert scene.recorded() is None
    assert asyncio.run(registration.mint()) == ev.Minted()
    runner = RunnerRecord.of(name=ID, api_url=scene.simulator.url, scope=SCOPE, asked=NOW, id=1, state="registered")
    assert scene.recorded() == runner
    assert asyncio.run(registration.sight()).presence is Presence.OFFLINE
    assert asyncio.run(registration.deregister()) == ev.Deregistered()
    assert scene.recorded() == runner.model_copy(update={"state": "released"})
    assert scene.names == []
    assert scene.run.settled


def test_a_lost_answer_is_on_record_and_found_by_its_name(scene: Scene) -> None:
    scene.spoil(method="POST", path=MINT, cut="after", count=1)
    failed = asyncio.run(scene.registration.mint())
    assert isinstance(failed, ev.MintFailed)
    assert not failed.permanent
    assert scene.names == [ID]
    asked = RunnerRecord.of(name=ID, api_url=scene.simulator.url, scope=SCOPE, asked=NOW, id=None, state="asked")
    assert scene.recorded() == asked
    asyncio.run(scene.registration.release())
    assert scene.names == []
    assert scene.run.settled


@pytest.mark.parametrize(
    ("status", "permanent", "settled"),
    [(403, True, True), (404, True, True), (409, False, False), (429, False, True), (503, False, False)],
)
def test_a_refusal_for_good_one_for_now_and_no_word_at_all(
    scene: Scene, status: int, permanent: bool, settled: bool
) -> None:
    headers = {"retry-after": "600"} if status == 429 else {}
    scene.spoil(method="POST", path=MINT, status=status, body='{"message": "no"}', headers=headers)
    failed = asyncio.run(scene.registration.mint())
    assert isinstance(failed, ev.MintFailed)
    assert failed.permanent is permanent
    assert scene.registration.refusal is not None
    assert scene.run.settled is settled


def test_a_short_rate_limit_is_waited_for_and_then_the_same_name_is_asked_for(timed: Scene, time: VirtualTime) -> None:
    timed.spoil(method="POST", path=MINT, status=429, headers={"retry-after": "60"}, count=2)
    assert asyncio.run(timed.registration.mint()) == ev.Minted()
    assert time.slept == [60, 60]
    assert [type(error) for error in timed.trouble] == [RateLimited, RateLimited]
    assert timed.names == [ID]
    recorded = timed.recorded()
    assert recorded is not None
    assert recorded.state == "registered"


def test_a_machine_waits_two_minutes_in_all_for_a_rate_limit(timed: Scene, time: VirtualTime) -> None:
    timed.spoil(method="POST", path=MINT, status=429, headers={"retry-after": "50"})
    failed = asyncio.run(timed.registration.mint())
    assert isinstance(failed, ev.MintFailed)
    assert not failed.permanent
    assert time.slept == [50, 50]
    assert timed.run.settled


def test_a_deletion_that_meets_a_rate_limit_is_not_tried_again_before_its_end(timed: Scene, time: VirtualTime) -> None:
    asyncio.run(timed.registration.mint())
    timed.spoil(method="DELETE", status=429, headers={"retry-after": "900"}, count=1)
    assert asyncio.run(timed.registration.deregister()) == ev.DeregisterFailed()
    assert time.slept == [900]
    assert asyncio.run(timed.registration.deregister()) == ev.Deregistered()


def test_a_name_that_is_taken_is_our_own_and_given_back(timed: Scene) -> None:
    """Something on the way has sent the request twice: the first made the runner, the second met a 409."""
    timed.simulator.trouble("name-clash")
    failed = asyncio.run(timed.registration.mint())
    assert isinstance(failed, ev.MintFailed)
    assert timed.names == [ID]
    asyncio.run(timed.registration.release())
    assert timed.names == []
    assert ["nothing is left of it" in error.brief for error in timed.trouble] == [True]
    assert timed.run.settled


def test_a_run_that_ends_while_it_asks_still_hears_the_answer(scene: Scene) -> None:
    scene.spoil(method="POST", path=MINT, delay=0.2, count=1)

    async def end_while_asking() -> None:
        minting = asyncio.create_task(scene.registration.mint())
        await asyncio.sleep(0)  # it has begun: the record is written and the question is on its way
        assert scene.run.record.runner is not None
        minting.cancel()
        await asyncio.gather(minting, return_exceptions=True)
        assert minting.cancelled()
        assert scene.names == []
        await scene.registration.release()

    asyncio.run(end_while_asking())
    assert scene.registration.config is not None
    assert scene.names == []
    assert scene.run.settled


@pytest.mark.parametrize(("age", "settled"), [(299, False), (301, True)])
def test_what_never_appeared_may_still_do_so_for_five_minutes(scene: Scene, age: float, settled: bool) -> None:
    scene.spoil(method="POST", path=MINT, cut="before", count=1)
    asyncio.run(scene.registration.mint())
    runner = scene.run.record.runner
    assert runner is not None
    scene.run.update(runner=runner.model_copy(update={"asked": NOW - age}))
    asyncio.run(scene.registration.release())
    assert scene.run.settled is settled


def test_a_busy_runner_is_not_deregistered(scene: Scene) -> None:
    asyncio.run(scene.registration.mint())
    scene.make_busy()
    assert asyncio.run(scene.registration.deregister()) == ev.DeregisterRefused()
    asyncio.run(scene.registration.release())
    recorded = scene.recorded()
    assert recorded is not None
    assert recorded.state == "registered"
    assert not scene.run.settled


def test_github_out_of_reach(scene: Scene) -> None:
    asyncio.run(scene.registration.mint())
    scene.spoil(method="DELETE", status=503)
    assert asyncio.run(scene.registration.deregister()) == ev.DeregisterFailed()
    asyncio.run(scene.registration.release())
    assert len(scene.trouble) == 2
    assert not scene.run.settled


def test_what_was_never_asked_for_needs_no_release(scene: Scene) -> None:
    scene.spoil(status=500)
    asyncio.run(scene.registration.release())
    assert scene.trouble == []


def test_a_block_that_ends_releases(scene: Scene) -> None:
    async def live() -> None:
        async with released_at_end(scene.registration, asyncio.Event()):
            await scene.registration.mint()

    asyncio.run(live())
    assert scene.names == []


def test_an_abandoned_block_leaves_it_to_gc(scene: Scene) -> None:
    async def live() -> None:
        abandoned = asyncio.Event()
        async with released_at_end(scene.registration, abandoned):
            await scene.registration.mint()
            scene.spoil(method="DELETE", status=503)
            abandoned.set()

    asyncio.run(live())
    assert scene.names == [ID]
    assert not scene.run.settled


@contextlib.contextmanager
def unwritable(run: RunDirectory) -> Iterator[None]:
    """The run's record cannot be written in the block."""
    directory = run.path
    run.path = directory / "missing"
    try:
        yield
    finally:
        run.path = directory


def test_the_record_comes_before_the_question(scene: Scene) -> None:
    with unwritable(scene.run):
        failed = asyncio.run(scene.registration.mint())
    assert isinstance(failed, ev.MintFailed)
    assert not failed.permanent
    assert "--state-dir" in str(scene.registration.refusal and scene.registration.refusal.resolution)
    assert scene.names == []


def test_a_registration_that_cannot_be_written_down_is_one(scene: Scene) -> None:
    """The record says by what name it was asked for, which is enough for gc."""
    generate = scene.registration._github.generate_jitconfig

    def generate_and_fill_the_disk(*arguments: object, **options: object) -> object:
        config = generate(*arguments, **options)  # type: ignore[arg-type]
        spoiled.enter_context(unwritable(scene.run))
        return config

    with contextlib.ExitStack() as spoiled:
        scene.registration._github.generate_jitconfig = generate_and_fill_the_disk  # type: ignore[method-assign,assignment]  # the disk fills up between asking and the answer
        assert asyncio.run(scene.registration.mint()) == ev.Minted()
    assert [error.brief for error in scene.trouble] == ["the run's record could not be written"]
    recorded = scene.recorded()
    assert recorded is not None
    assert (recorded.name, recorded.state) == (ID, "asked")


def test_a_removal_that_cannot_be_written_down_is_a_removal(scene: Scene) -> None:
    asyncio.run(scene.registration.mint())
    with unwritable(scene.run):
        assert asyncio.run(scene.registration.deregister()) == ev.Deregistered()
    assert scene.names == []
    assert scene.run.settled
    assert ["No such file" in str(error.details) for error in scene.trouble] == [True]
