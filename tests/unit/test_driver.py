"""The driver with the real machine, hands that only write down what they are told, and virtual time."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

import pytest

from ghrunner_vm.lifecycle import events as ev
from ghrunner_vm.lifecycle.driver import Driver
from ghrunner_vm.lifecycle.events import Drain, DrainReason, Event, Timer
from ghrunner_vm.lifecycle.outcome import Outcome
from ghrunner_vm.lifecycle.state import Phase, Policy, State
from ghrunner_vm.vm.base import EndReason, VmEnd
from tests.virtual_time import Deadlock, VirtualLoop, run_virtual

DRAIN = Drain(DrainReason.SIGNAL)
OFF = ev.VmEnded(VmEnd(EndReason.POWERED_OFF))
POLICY = Policy(boot=300, job=3600, idle=900, drain=600, grace=60, retries=(2, 5, 10, 30))
TO_IDLE: tuple[tuple[float, Event], ...] = ((1, ev.AgentReady()), (3, ev.ListenerStarted()))
STARTED, FINISHED, EXITED = ev.GuestJobStarted(), ev.GuestJobFinished(), ev.ListenerExited(100)

Script = Iterable[tuple[float, Event]]


def now() -> float:
    return asyncio.get_running_loop().time()


class WrittenHands:
    """Hands that note each call with its time, and answer as they are told."""

    def __init__(self, driver: Driver, *, obeys: bool = True, removals: Iterable[Event] = ()) -> None:
        self._driver = driver
        self._obeys = obeys
        self._removals = list(removals)
        self.calls: list[tuple[float, str]] = []

    async def mint(self) -> Event:
        self._note("mint")
        return ev.Minted()

    async def send_start(self) -> None:
        self._note("start")

    async def deregister(self) -> Event:
        self._note("deregister")
        if not self._removals:
            return ev.Deregistered()
        return self._removals.pop(0) if len(self._removals) > 1 else self._removals[0]

    async def power_down(self) -> None:
        self._note("power-down")
        if self._obeys:
            self._driver.post(OFF)

    def look(self) -> None:
        self._note("look")

    def kill(self) -> None:
        self._note("kill")
        self._driver.post(ev.VmEnded(VmEnd(EndReason.KILLED)))

    def _note(self, call: str) -> None:
        self.calls.append((now(), call))


@dataclass
class Played:
    """What became of a run: its last state, its seconds, its calls, its phases with their times."""

    state: State
    seconds: float
    calls: list[tuple[float, str]]
    phases: list[tuple[float, Phase]]

    @property
    def names(self) -> list[str]:
        return [name for _, name in self.calls]


Change = Callable[[WrittenHands], object]


async def play(
    script: Script, policy: Policy, change: Change, launched: ev.Launched, options: dict[str, object]
) -> Played:
    phases: list[tuple[float, Phase]] = []

    def observe(before: State, _: Event, after: State) -> None:
        if before.phase is not after.phase:
            phases.append((now(), after.phase))

    driver = Driver(policy, observe)
    hands = WrittenHands(driver, **options)  # type: ignore[arg-type]  # the options of the tests below
    change(hands)
    driver.launched(hands, launched)
    handles = [asyncio.get_running_loop().call_later(at, driver.post, event) for at, event in script]
    try:
        state = await driver.run()
        return Played(state, now(), hands.calls, phases)
    finally:
        for handle in handles:
            handle.cancel()
        assert asyncio.all_tasks() == {asyncio.current_task()}, "a task of the driver outlives it"
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        assert loop.timers() == 0, "a timer of the driver outlives it"


def played(
    script: Script,
    policy: Policy = POLICY,
    change: Change = lambda _: None,
    launched: ev.Launched = ev.Launched(),  # noqa: B008 frozen
    **options: object,
) -> Played:
    return run_virtual(play(script, policy, change, launched, options))


def test_a_job_from_boot_to_power_off() -> None:
    run = played([*TO_IDLE, (10, STARTED), (70, FINISHED), (71, EXITED), (75, OFF)])
    assert run.state.outcome is Outcome.JOB_DONE
    assert run.names == ["mint", "start", "look", "look"]
    assert run.phases == [
        (0, Phase.BOOTING),
        (1, Phase.READY),
        (3, Phase.IDLE),
        (10, Phase.BUSY),
        (75, Phase.DONE),
    ]


def test_a_guest_that_stays_silent_is_killed_at_exactly_the_boot_timeout() -> None:
    run = played([])
    assert run.state.outcome is Outcome.BOOT_TIMEOUT
    assert run.calls == [(300, "kill")]


def test_a_job_past_its_time_is_powered_off_then_killed() -> None:
    run = played([*TO_IDLE, (100, ev.GuestJobStarted())], obeys=False)
    assert run.state.outcome is Outcome.JOB_TIMEOUT
    assert run.calls[2:] == [(3700, "power-down"), (3760, "kill")]


def test_a_job_that_both_witnesses_tell_of_has_one_deadline() -> None:
    run = played([*TO_IDLE, (100, ev.GuestJobStarted()), (200, ev.GitHubSaysBusy())])
    assert run.calls[2:] == [(3700, "power-down")]


def test_an_idle_run_is_drained_behind_its_deleted_registration() -> None:
    run = played([*TO_IDLE, (50, DRAIN)])
    assert run.state.outcome is Outcome.DRAINED
    assert run.calls[2:] == [(50, "deregister"), (50, "power-down")]


def test_a_busy_run_is_drained_after_its_job() -> None:
    run = played([*TO_IDLE, (50, ev.GuestJobStarted()), (60, DRAIN), (3000, FINISHED), (3001, OFF)])
    assert run.state.outcome is Outcome.JOB_DONE
    assert run.seconds == 3001
    assert run.names == ["mint", "start", "look"]


def test_a_job_that_arrives_with_the_drain_is_kept() -> None:
    script = [*TO_IDLE, (50, DRAIN), (3000, FINISHED), (3001, OFF)]
    run = played(script, removals=[ev.DeregisterRefused(), ev.Deregistered(gone=True)])
    assert (50, Phase.BUSY) in run.phases
    assert run.state.outcome is Outcome.JOB_DONE
    assert "power-down" not in run.names


def test_github_out_of_reach_is_asked_again_until_the_drain_deadline() -> None:
    run = played([*TO_IDLE, (50, DRAIN)], removals=[ev.DeregisterFailed()])
    asked = [at - 50 for at, name in run.calls if name == "deregister"]
    assert asked[:6] == [0, 2, 7, 17, 47, 77]
    assert {later - earlier for earlier, later in itertools.pairwise(asked[4:])} == {30}
    assert run.calls[-1:] == [(650, "power-down")]
    assert run.state.outcome is Outcome.DRAINED_UNCONFIRMED


def test_github_that_comes_back_confirms_the_drain() -> None:
    run = played([*TO_IDLE, (50, DRAIN)], removals=[ev.DeregisterFailed(), ev.DeregisterFailed(), ev.Deregistered()])
    assert run.calls[-1:] == [(57, "power-down")]
    assert run.state.outcome is Outcome.DRAINED


def test_a_run_without_a_job_ends_at_its_idle_timeout() -> None:
    run = played(TO_IDLE)
    assert run.state.outcome is Outcome.IDLE_TIMEOUT
    assert run.calls[2:] == [(903, "deregister"), (903, "power-down")]


def test_an_interrupt_powers_off_whatever_runs() -> None:
    run = played([*TO_IDLE, (50, ev.GuestJobStarted()), (60, ev.Interrupt())])
    assert run.state.outcome is Outcome.INTERRUPTED
    assert run.calls[2:] == [(60, "power-down")]


def test_a_second_interrupt_kills_at_once() -> None:
    run = played([*TO_IDLE, (60, ev.Interrupt()), (61, ev.Interrupt())], obeys=False)
    assert run.state.outcome is Outcome.INTERRUPTED
    assert run.state.abandoned
    assert run.calls[2:] == [(60, "power-down"), (61, "kill")]


def test_a_vm_that_survives_its_kill_does_not_hold_up_the_end() -> None:
    def immortal(hands: WrittenHands) -> None:
        hands.kill = lambda: None  # type: ignore[method-assign]  # a kernel that does not let go

    run = played([], change=immortal)
    assert run.state.outcome is Outcome.BOOT_TIMEOUT
    assert run.seconds == 310


def test_a_poll_that_finds_nothing_does_not_replace_the_deletion() -> None:
    run = played([*TO_IDLE, (10, ev.GitHubSaysGone()), (20, DRAIN)])
    assert run.calls[2:] == [(20, "deregister"), (20, "power-down")]
    assert run.state.outcome is Outcome.DRAINED


def test_a_runner_that_was_gone_and_is_back_is_no_ghost() -> None:
    run = played([*TO_IDLE, (10, ev.GitHubSaysGone()), (20, ev.GitHubSaysIdle())])
    assert run.state.outcome is Outcome.IDLE_TIMEOUT


@pytest.mark.parametrize("code", [134, 127])
def test_a_listener_that_crashed_or_is_missing_did_no_job(code: int) -> None:
    run = played([*TO_IDLE, (50, ev.ListenerExited(code)), (60, OFF)])
    assert run.state.outcome is Outcome.LISTENER_FAILED


def test_a_guest_that_stays_on_after_its_job_is_ended_but_not_blamed() -> None:
    keep = Policy(boot=300, job=3600, shutdown_after_job=False)
    run = played([*TO_IDLE, (10, STARTED), (50, FINISHED)], keep)
    assert run.state.outcome is Outcome.JOB_DONE
    assert run.calls[-1:] == [(3610, "power-down")]


def test_a_guest_that_leaves_while_it_is_drained_is_drained() -> None:
    run = played([*TO_IDLE, (50, DRAIN), (55, OFF)], removals=[ev.DeregisterFailed()])
    assert run.state.outcome is Outcome.DRAINED


def test_a_github_that_changes_its_mind_does_not_put_off_the_end() -> None:
    idle = [(60 + 500 * turn, ev.GitHubSaysIdle()) for turn in range(7)]
    run = played([*TO_IDLE, (50, DRAIN), *idle], removals=[ev.DeregisterRefused()])
    assert run.names.count("deregister") == 1 + len(idle)
    assert run.calls[-1:] == [(3650, "power-down")]


async def never() -> Event:
    answer: asyncio.Future[Event] = asyncio.get_running_loop().create_future()
    return await answer


def test_what_is_under_way_is_cancelled_at_the_end() -> None:
    cancelled: list[float] = []

    async def endless() -> Event:
        try:
            return await never()
        finally:
            cancelled.append(now())

    def slow(hands: WrittenHands) -> None:
        hands.mint = endless  # type: ignore[method-assign]

    played([(1, ev.AgentReady()), (2, OFF)], change=slow)
    assert cancelled == [2]


def fails(*_: object) -> Awaitable[None]:
    raise RuntimeError("a fault in a hand")


async def fails_later() -> None:
    await asyncio.sleep(5)
    raise RuntimeError("a fault in a hand")


@pytest.mark.parametrize(
    ("hand", "fault"),
    [
        *((hand, fails) for hand in ("kill", "look", "send_start", "power_down")),
        *((hand, fails_later) for hand in ("send_start", "power_down")),
    ],
)
def test_a_hand_that_fails_ends_the_run_with_its_error(hand: str, fault: Callable[[], Awaitable[None]]) -> None:
    script = [*TO_IDLE, (50, ev.GuestJobFinished()), (60, ev.Interrupt()), (70, ev.Interrupt())]
    with pytest.raises(RuntimeError, match="a fault in a hand"):
        played(script, change=lambda hands: setattr(hands, hand, fault), obeys=False)


def test_a_failure_while_the_run_ends_hides_nothing_and_keeps_nobody() -> None:
    async def stubborn() -> Event:
        try:
            return await never()
        except asyncio.CancelledError:
            raise RuntimeError("in the middle of the end") from None

    def change(hands: WrittenHands) -> None:
        hands.mint = stubborn  # type: ignore[method-assign]

    run = played([(1, ev.AgentReady()), (2, OFF)], change=change)
    assert run.state.outcome is Outcome.BOOT_FAILED


def test_a_preparation_that_failed_ends_the_run() -> None:
    async def prepare() -> None:
        driver = Driver(POLICY, lambda *_: None)
        driver.fail(OSError("no disk"))
        await driver.run()

    with pytest.raises(OSError, match="no disk"):
        run_virtual(prepare())


def test_before_the_launch_a_drain_ends_the_run() -> None:
    async def prepare() -> State:
        driver = Driver(POLICY, lambda *_: None)
        driver.post(DRAIN)
        return await driver.run()

    assert run_virtual(prepare()).outcome is Outcome.DRAINED


def test_a_timer_that_fires_while_it_is_disarmed_does_nothing() -> None:
    # At second 300 both are in the queue: the guest's word, and behind it the boot timer's.
    run = played([(300, ev.AgentReady()), (301, ev.ListenerStarted()), (310, DRAIN)])
    assert (300, Phase.READY) in run.phases
    assert run.state.outcome is Outcome.DRAINED


def test_a_timer_that_fired_first_wins() -> None:
    run = played([(300, ev.Fired(Timer.BOOT)), (300, ev.AgentReady())], Policy(boot=301, job=1))
    assert run.state.outcome is Outcome.BOOT_TIMEOUT


def test_a_run_that_nothing_can_end_is_found() -> None:
    """The tests above would not hang but fail."""
    with pytest.raises(Deadlock):
        played(TO_IDLE, Policy(boot=300, job=3600, idle=None))


def test_what_came_while_this_process_was_stopped_is_heard_before_its_timers() -> None:
    """SIGSTOP in the middle of a boot, SIGCONT long after the boot timeout; the guest came up meanwhile."""

    def sleep_through(hands: WrittenHands) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.call_later(10, loop.jump, 10_000)
        # What waits in a socket is read in the turn after the timers that are due.
        loop.call_later(10, loop.call_soon, loop.call_soon, hands._driver.post, ev.AgentReady())

    run = played([(10_020, ev.ListenerStarted()), (10_030, DRAIN)], change=sleep_through)
    assert run.state.outcome is Outcome.DRAINED
    assert "kill" not in run.names


def test_a_guest_that_did_not_come_up_meanwhile_is_ended_all_the_same() -> None:
    def sleep_through(_: WrittenHands) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.call_later(10, loop.jump, 10_000)

    run = played([], change=sleep_through)
    assert run.state.outcome is Outcome.BOOT_TIMEOUT


@pytest.mark.parametrize(
    ("script", "outcome", "calls"),
    [
        ([], Outcome.VMM_SILENT, ["kill"]),
        (TO_IDLE, Outcome.VMM_SILENT, ["mint", "start", "deregister", "power-down", "kill"]),
        ([*TO_IDLE, (10, STARTED)], Outcome.JOB_TIMEOUT, ["mint", "start", "power-down", "kill"]),
    ],
    ids=["booting", "idle", "busy"],
)
def test_a_machine_that_does_not_answer(script: Script, outcome: Outcome, calls: list[str]) -> None:
    """Without a job it is ended; with one only the job's timer ends it."""
    run = played([*script, (100, ev.VmmSilent())], obeys=False)
    assert run.state.outcome is outcome
    assert run.names == calls
