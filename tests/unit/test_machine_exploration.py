"""Every state that the machine can reach, with every event and every armed timer in each of them."""

from collections import deque

import pytest

from ghrunner_vm.lifecycle import events as ev
from ghrunner_vm.lifecycle.events import Arm, Disarm, Effect, Event, Timer
from ghrunner_vm.lifecycle.machine import step
from ghrunner_vm.lifecycle.outcome import Outcome
from ghrunner_vm.lifecycle.state import GuestJob, Phase, Policy, Registration, State
from ghrunner_vm.vm.base import EndReason, VmEnd

Transition = tuple[State, Event, State, tuple[Effect, ...]]

POLICIES = {
    "plain": Policy(boot=1, job=1, retries=(1.0, 2.0)),
    "idle-timeout": Policy(boot=1, job=1, idle=1, retries=(1.0, 2.0)),
    "keep-running": Policy(boot=1, job=1, shutdown_after_job=False, retries=(1.0, 2.0)),
}

# What a drain may end a run as; none of these may cost a job.
GENTLE = {
    Outcome.DRAINED,
    Outcome.DRAINED_UNCONFIRMED,
    Outcome.IDLE_TIMEOUT,
    Outcome.START_TIMEOUT,
    Outcome.BOOT_TIMEOUT,
    Outcome.VANISHED,
    Outcome.VMM_SILENT,
    Outcome.JOB_DONE,
    Outcome.NO_JOB,
}


def events_in(state: State) -> list[Event]:
    """Whatever the world may say in this state. Only what the driver itself guarantees is left out."""
    if state.phase is Phase.PREPARING:
        plain = [ev.Launched(registered=registered, silent=True) for registered in (False, True)]
        return [ev.Launched(), *plain, ev.Drain(ev.DrainReason.SIGNAL), ev.Interrupt()]
    possible: list[Event] = [
        *(ev.Drain(ev.DrainReason.SIGNAL), ev.Interrupt(), ev.AgentReady(), ev.ListenerStarted(), ev.VmmSilent()),
        *(ev.Fired(timer) for timer in state.armed),
    ]
    if state.phase is not Phase.SETTLING:
        possible += [ev.VmEnded(VmEnd(reason)) for reason in EndReason]
    if not state.silent:
        possible += [ev.GuestRefused("no"), ev.GuestJobStarted(), ev.GuestJobFinished()]
        possible += [ev.ListenerExited(code) for code in (0, 1, 7, 100, 102)]
        possible += [ev.GuestFellSilent()]
    if state.registration is Registration.MINTING:
        possible += [ev.Minted(), ev.MintFailed(permanent=True, why=""), ev.MintFailed(permanent=False, why="")]
    if state.registration in (Registration.HELD, Registration.RELEASED):
        possible += [ev.GitHubSaysBusy(), ev.GitHubSaysIdle(), ev.GitHubSaysGone()]
        possible += [*map(ev.Deregistered, (False, True)), ev.DeregisterRefused(), ev.DeregisterFailed()]
    return possible


def explore(policy: Policy) -> list[Transition]:
    seen, waiting, transitions = {State()}, deque([State()]), []
    while waiting:
        state = waiting.popleft()
        for event in events_in(state):
            after, effects = step(state, event, policy)
            transitions.append((state, event, after, effects))
            if after not in seen:
                seen.add(after)
                if after.phase is not Phase.DONE:  # from there nothing leads on: test_there_is_exactly_one_end
                    waiting.append(after)
    return transitions


@pytest.fixture(scope="module", params=POLICIES)
def explored(request: pytest.FixtureRequest) -> tuple[Policy, list[Transition]]:
    policy = POLICIES[request.param]
    return policy, explore(policy)


def test_every_phase_is_reached(explored: tuple[Policy, list[Transition]]) -> None:
    assert {after.phase for _, _, after, _ in explored[1]} == set(Phase) - {Phase.PREPARING}


def test_no_job_known_to_a_witness_is_ended_gently(explored: tuple[Policy, list[Transition]]) -> None:
    for before, event, after, effects in explored[1]:
        ends = any(isinstance(effect, ev.PowerDown | ev.Kill) for effect in effects)
        # What is on its way out already was judged when that was decided.
        if ends and after.outcome in GENTLE and before.phase not in (Phase.POWERING_OFF, Phase.KILLING):
            assert not after.busy, f"{event} ended a job in {before}"


def test_a_run_that_may_get_a_job_is_retired_only_behind_a_deleted_registration(
    explored: tuple[Policy, list[Transition]],
) -> None:
    """Unless GitHub cannot be asked until the deadline, or the guest's listener is known to be gone."""
    for before, event, after, effects in explored[1]:
        if after.outcome in (Outcome.DRAINED, Outcome.IDLE_TIMEOUT) and any(
            isinstance(e, ev.PowerDown) for e in effects
        ):
            unregistered = after.registration is not Registration.HELD or before.listener_exit is not None
            # A drain that meets its deadline has another name; an idle timeout meets it too.
            unasked = event == ev.Fired(Timer.DRAIN) and after.outcome is Outcome.IDLE_TIMEOUT
            assert unregistered or unasked, f"{event} in {before}"


def test_a_drain_is_never_confirmed_without_github(explored: tuple[Policy, list[Transition]]) -> None:
    fired = [after for _, event, after, _ in explored[1] if event == ev.Fired(Timer.DRAIN)]
    assert fired
    assert all(after.outcome is not Outcome.DRAINED for after in fired)


def test_there_is_exactly_one_end(explored: tuple[Policy, list[Transition]]) -> None:
    policy, transitions = explored
    for before, event, after, _ in transitions:
        assert (after.phase is Phase.DONE) <= (after.outcome is not None)
        if before.outcome is not None:
            assert after.outcome is before.outcome, f"{event} changed the outcome of {before}"
        if after.phase is Phase.DONE:
            assert step(after, event, policy) == (after, ())


def test_the_end_of_the_vm_is_the_end_of_the_run(explored: tuple[Policy, list[Transition]]) -> None:
    """Only a guest that tells nothing may have had a job that GitHub alone knows of, and one may have lied."""
    for before, event, after, _ in explored[1]:
        if isinstance(event, ev.VmEnded):
            assert after.phase is (Phase.SETTLING if after.outcome is None else Phase.DONE)
            doubtful = before.silent or (before.guest_job is GuestJob.OVER and before.github_busy)
            assert after.phase is Phase.DONE or doubtful, f"{event} in {before}"


def test_no_job_that_github_knows_of_is_called_done_on_the_guests_word(
    explored: tuple[Policy, list[Transition]],
) -> None:
    ended = (EndReason.POWERED_OFF, EndReason.RESET)
    for before, event, after, _ in explored[1]:
        held = before.registration is Registration.HELD and before.phase in (Phase.BUSY, Phase.DRAINING)
        if isinstance(event, ev.VmEnded) and event.end.reason in ended and before.github_busy and held:
            assert after.outcome is not Outcome.JOB_DONE, f"{event} in {before}"


def test_only_a_runner_without_a_job_is_outdated(explored: tuple[Policy, list[Transition]]) -> None:
    ends = [after for _, _, after, _ in explored[1] if after.outcome is Outcome.OUTDATED]
    assert ends
    assert not any(after.had_job or after.busy for after in ends)


def test_a_guest_that_fell_silent_is_never_waited_for(explored: tuple[Policy, list[Transition]]) -> None:
    """Once the guest cannot tell, its unfinished job is GitHub's to end."""
    fallen = [after for _, event, after, _ in explored[1] if event == ev.GuestFellSilent() and after.outcome is None]
    assert fallen
    assert all(after.silent and after.guest_job is not GuestJob.RUNNING for after in fallen)


def test_a_guest_that_tells_nothing_is_judged_by_github(explored: tuple[Policy, list[Transition]]) -> None:
    """Gone: its job is done. Still there: as it seemed. Busy: the job died with the machine."""
    ends = [turn for turn in explored[1] if turn[0].phase is Phase.SETTLING and turn[2].phase is Phase.DONE]
    told: dict[bool, list[tuple[State, Outcome | None]]] = {
        event.gone: [] for _, event, _, _ in ends if isinstance(event, ev.Deregistered)
    }
    for before, event, after, _ in ends:
        if isinstance(event, ev.Deregistered):
            told[event.gone].append((before, after.outcome))
        if event == ev.Fired(Timer.DRAIN):
            told_done = before.had_job or before.guest_job is GuestJob.OVER
            assert after.outcome is not Outcome.JOB_DONE or told_done, f"{before}: nobody said so"
            assert not before.github_busy or told_done or after.outcome is Outcome.JOB_LOST
    assert told[True]
    assert all(outcome is Outcome.JOB_DONE for _, outcome in told[True])
    unheard = [(before, outcome) for before, outcome in told[False] if before.guest_job is not GuestJob.OVER]
    assert all(before.had_job or outcome is not Outcome.JOB_DONE for before, outcome in unheard)
    assert any(outcome is Outcome.GUEST_LEFT for _, outcome in told[False])


def test_every_waiting_phase_has_a_deadline_or_waits_on_purpose(explored: tuple[Policy, list[Transition]]) -> None:
    policy, transitions = explored
    deadlines = {
        Phase.BOOTING: {Timer.BOOT},
        Phase.READY: {Timer.MINT, Timer.START},
        Phase.BUSY: {Timer.JOB},
        Phase.DRAINING: {Timer.DRAIN},
        Phase.POWERING_OFF: {Timer.GRACE},
        Phase.KILLING: {Timer.GRACE},
        Phase.SETTLING: {Timer.DRAIN},
    }
    for before, event, after, _ in transitions:
        wanted = deadlines.get(after.phase)
        assert wanted is None or wanted & after.armed, f"{event} in {before} leaves {after} waiting for ever"
        if after.phase is Phase.IDLE and not after.armed:
            connected = after.registration is Registration.HELD and after.listener_exit is None
            assert policy.idle is None or not policy.shutdown_after_job
            assert connected or not policy.shutdown_after_job, f"{event} in {before}: nobody will ever end {after}"


def test_armed_timers_are_those_asked_for(explored: tuple[Policy, list[Transition]]) -> None:
    """The state's memory of armed timers and the effects never disagree."""
    for before, event, after, effects in explored[1]:
        armed = set(before.armed)
        if isinstance(event, ev.Fired):
            armed.discard(event.timer)
        for effect in effects:
            if isinstance(effect, Arm):
                armed.add(effect.timer)
            elif isinstance(effect, Disarm):
                armed.discard(effect.timer)
        assert armed == after.armed, f"{event} in {before}"
        assert after.phase is not Phase.DONE or not armed


def test_the_job_timer_runs_once_and_is_never_pushed_back(explored: tuple[Policy, list[Transition]]) -> None:
    for before, event, _, effects in explored[1]:
        if Timer.JOB in before.armed:
            rearmed = any(isinstance(effect, Arm) and effect.timer is Timer.JOB for effect in effects)
            assert not rearmed, f"{event} in {before} gave the job more time"


def test_a_job_the_guest_told_of_is_ended_only_by_its_timer_or_a_person(
    explored: tuple[Policy, list[Transition]],
) -> None:
    allowed = (ev.Interrupt, ev.VmEnded, ev.GuestJobFinished, ev.ListenerExited)
    for before, event, after, _ in explored[1]:
        if before.phase is Phase.BUSY and before.guest_job is GuestJob.RUNNING and after.phase is not Phase.BUSY:
            assert isinstance(event, allowed) or event == ev.Fired(Timer.JOB), f"{event} in {before}"


def test_the_guest_cannot_talk_a_busy_run_idle(explored: tuple[Policy, list[Transition]]) -> None:
    guest = (
        ev.AgentReady,
        ev.ListenerStarted,
        ev.GuestRefused,
        ev.GuestJobStarted,
        ev.GuestJobFinished,
        ev.ListenerExited,
        ev.GuestFellSilent,
    )
    for before, event, after, _ in explored[1]:
        if before.github_busy and isinstance(event, guest):
            assert after.github_busy
            assert before.phase is not Phase.BUSY or after.phase is Phase.BUSY, f"{event} in {before}"


def test_a_second_interrupt_kills_and_leaves_github_alone(explored: tuple[Policy, list[Transition]]) -> None:
    for before, event, after, effects in explored[1]:
        if isinstance(event, ev.Interrupt) and before.interrupted and before.phase is not Phase.DONE:
            assert after.abandoned
            assert ev.Kill() in effects
            assert ev.Deregister() not in effects


def test_the_listener_starts_only_with_a_registration(explored: tuple[Policy, list[Transition]]) -> None:
    starts = [(before, event) for before, event, _, effects in explored[1] if ev.SendStart() in effects]
    assert starts
    assert all(event == ev.Minted() and before.phase is Phase.READY for before, event in starts)
