"""The pure machine: `step(state, event, policy)` gives the next state and what to do. No clock, no I/O.

Two witnesses tell of a job, the guest and GitHub; either is enough. A run that may be idle is ended only after its
registration is deleted, since only that makes sure that no job arrives in the meantime.
"""

from ghrunner_vm.lifecycle import events as ev
from ghrunner_vm.lifecycle.deadlines import fired
from ghrunner_vm.lifecycle.ending import after_exit, natural
from ghrunner_vm.lifecycle.events import Effect, Event, Timer
from ghrunner_vm.lifecycle.outcome import Outcome
from ghrunner_vm.lifecycle.state import GuestJob, Phase, Policy, Registration, State
from ghrunner_vm.lifecycle.turn import Turn
from ghrunner_vm.vm.base import EndReason


def step(state: State, event: Event, policy: Policy) -> tuple[State, tuple[Effect, ...]]:
    """The state after `event`, and the effects to carry out in this order. Nothing happens after the end."""
    if state.phase is Phase.DONE:
        return state, ()
    turn = Turn(state, policy)
    _handle(turn, event)
    return turn.state, tuple(turn.effects)


# ---- one handler an event ----


def _handle(turn: Turn, event: Event) -> None:  # noqa: C901 one case an event
    match event:
        case ev.Launched():
            _launched(turn, event)
        case ev.AgentReady():
            _agent_ready(turn)
        case ev.Minted():
            _minted(turn)
        case ev.MintFailed():
            _mint_failed(turn, event)
        case ev.ListenerStarted():
            _listener_started(turn)
        case ev.GuestRefused():
            _guest_refused(turn)
        case ev.GuestJobStarted():
            _guest_job_started(turn)
        case ev.GuestJobFinished():
            _guest_job_finished(turn)
        case ev.ListenerExited():
            _listener_exited(turn, event)
        case ev.GuestFellSilent():
            _guest_fell_silent(turn)
        case ev.GitHubSaysBusy():
            _github_says_busy(turn)
        case ev.GitHubSaysIdle():
            _github_says_idle(turn)
        case ev.GitHubSaysGone():
            _github_says_gone(turn)
        case ev.Deregistered():
            _deregistered(turn, event)
        case ev.DeregisterRefused():
            _deregister_refused(turn)
        case ev.DeregisterFailed():
            _deregister_failed(turn)
        case ev.Drain():
            _drain(turn, event)
        case ev.Interrupt():
            _interrupt(turn)
        case ev.Fired():
            fired(turn, event.timer)
        case ev.VmmSilent():
            _vmm_silent(turn)
        case ev.VmEnded():
            _vm_ended(turn, event)


def _launched(turn: Turn, event: ev.Launched) -> None:
    held = Registration.HELD if event.registered else Registration.NONE
    turn.set(phase=Phase.BOOTING, registration=held, silent=event.silent)
    turn.arm(Timer.BOOT, turn.policy.boot)


def _agent_ready(turn: Turn) -> None:
    if not turn.in_phase(Phase.BOOTING) or turn.state.registration is not Registration.NONE:
        return  # a second `ready` is the guest's own business
    turn.disarm(Timer.BOOT)
    turn.set(phase=Phase.READY, registration=Registration.MINTING)
    turn.effects.append(ev.Mint())
    turn.arm(Timer.MINT, turn.policy.mint)


def _minted(turn: Turn) -> None:
    turn.disarm(Timer.MINT)
    turn.set(registration=Registration.HELD)
    if turn.in_phase(Phase.READY):
        turn.effects.append(ev.SendStart())
        turn.arm(Timer.START, turn.policy.start)
    elif turn.in_phase(Phase.DRAINING):
        turn.effects.append(ev.Deregister())


def _mint_failed(turn: Turn, event: ev.MintFailed) -> None:
    turn.set(registration=Registration.NONE)
    if turn.in_phase(Phase.READY):
        turn.power_off(Outcome.MINT_REFUSED if event.permanent else Outcome.MINT_FAILED)
    elif turn.in_phase(Phase.DRAINING):
        turn.power_off(turn.state.retire_as or Outcome.DRAINED)


def _listener_started(turn: Turn) -> None:
    if turn.in_phase(Phase.BOOTING, Phase.READY) and turn.state.registration is Registration.HELD:
        turn.disarm(Timer.BOOT, Timer.START)
        turn.become_idle()


def _guest_refused(turn: Turn) -> None:
    if turn.in_phase(Phase.READY):
        turn.power_off(Outcome.REFUSED)


def _guest_job_started(turn: Turn) -> None:
    if turn.has_listener and turn.state.guest_job is GuestJob.NONE:
        turn.set(guest_job=GuestJob.RUNNING)
        turn.become_busy()


def _guest_job_finished(turn: Turn) -> None:
    if turn.has_listener and turn.state.guest_job is not GuestJob.OVER:
        turn.become_busy()  # a start that we were not told of, or the end of one that we were
        turn.set(guest_job=GuestJob.OVER)
        turn.job_is_over()


def _listener_exited(turn: Turn, event: ev.ListenerExited) -> None:
    if not turn.has_listener:
        return
    turn.set(listener_exit=event.code, guest_job=after_exit(turn.state.guest_job, event.code))
    turn.disarm(Timer.BOOT, Timer.START, Timer.IDLE)
    if turn.in_phase(Phase.BOOTING, Phase.READY):
        turn.set(phase=Phase.IDLE)
    turn.job_is_over()


def _guest_fell_silent(turn: Turn) -> None:
    """What it said stands until GitHub says otherwise, which is asked at once."""
    if turn.state.outcome is not None:
        return
    if turn.state.guest_job is GuestJob.RUNNING:
        turn.set(guest_job=GuestJob.NONE, github_busy=True)
    turn.set(silent=True)
    if turn.in_phase(Phase.DRAINING):
        turn.arm(Timer.DRAIN, turn.patience)
    turn.effects.append(ev.Look())


def _github_says_busy(turn: Turn) -> None:
    if turn.may_have_job:
        turn.set(github_busy=True, had_job=True)
        turn.become_busy()


def _github_says_idle(turn: Turn) -> None:
    turn.set(github_busy=False)
    if turn.state.registration is Registration.HELD:
        turn.disarm(Timer.VANISHED)
    _no_longer_busy(turn)
    if turn.state.registration is Registration.RELEASED:
        turn.suspect_ghost()


def _github_says_gone(turn: Turn) -> None:
    """The word of one poll: it may be early or stale, so the registration counts as held until it is deleted."""
    turn.set(github_busy=False)
    if turn.in_phase(Phase.SETTLING) and Timer.RETRY in turn.state.armed:
        turn.disarm(Timer.RETRY)
        turn.effects.append(ev.Deregister())
    _no_longer_busy(turn)
    turn.suspect_ghost()


def _deregistered(turn: Turn, event: ev.Deregistered) -> None:
    turn.set(registration=Registration.RELEASED, github_busy=False)
    if turn.in_phase(Phase.SETTLING):
        # The service deletes the registration of a runner that has done its job; that may take a moment.
        done = event.gone or turn.state.had_job
        turn.finish(Outcome.JOB_DONE if done else turn.state.retire_as or Outcome.GUEST_LEFT)
        return
    if turn.in_phase(Phase.DRAINING):
        turn.power_off(turn.state.retire_as or Outcome.DRAINED)
        return
    _no_longer_busy(turn)
    turn.suspect_ghost()


def _no_longer_busy(turn: Turn) -> None:
    """GitHub has stopped saying busy. A job that the guest told of ends only by the guest's word or its timer."""
    if not turn.in_phase(Phase.BUSY):
        return
    if turn.state.guest_job is GuestJob.NONE:
        if turn.state.drain is None:  # else a GitHub that says now this, now that could put off the end for ever
            turn.disarm(Timer.JOB)
        turn.become_idle()
        if turn.state.silent and turn.in_phase(Phase.IDLE) and Timer.IDLE not in turn.state.armed:
            turn.arm(Timer.IDLE, turn.policy.job)  # root in a job could have made its listener seem idle
    elif not turn.state.busy and turn.state.drain and Timer.AFTER_JOB not in turn.state.armed:
        turn.power_off(natural(turn.state))


def _deregister_refused(turn: Turn) -> None:
    if turn.in_phase(Phase.DRAINING, Phase.BUSY):
        turn.set(github_busy=True, had_job=True)
        turn.become_busy()
    elif turn.in_phase(Phase.SETTLING):
        turn.set(github_busy=True, retire_as=Outcome.JOB_LOST)
        turn.try_again()


def _deregister_failed(turn: Turn) -> None:
    if turn.in_phase(Phase.DRAINING, Phase.SETTLING):
        turn.try_again()


def _drain(turn: Turn, event: ev.Drain) -> None:
    if turn.state.drain is not None:
        return
    turn.set(drain=event.reason)
    match turn.state.phase:
        case Phase.DRAINING:
            turn.arm(Timer.DRAIN, turn.patience)
        case Phase.PREPARING:
            turn.finish(Outcome.DRAINED)
        case Phase.BOOTING if turn.state.registration is Registration.NONE:
            turn.kill(Outcome.DRAINED)
        case Phase.BOOTING | Phase.READY | Phase.IDLE:
            turn.retire(Outcome.DRAINED)
        case Phase.BUSY if not turn.state.busy and Timer.AFTER_JOB not in turn.state.armed:
            turn.power_off(natural(turn.state))


def _interrupt(turn: Turn) -> None:
    if turn.state.interrupted:
        turn.set(abandoned=True)
        turn.kill(Outcome.INTERRUPTED)
        return
    turn.set(interrupted=True)
    match turn.state.phase:
        case Phase.PREPARING | Phase.SETTLING:
            turn.finish(Outcome.INTERRUPTED)
        case Phase.BOOTING:
            turn.kill(Outcome.INTERRUPTED)
        case Phase.READY | Phase.IDLE | Phase.BUSY | Phase.DRAINING:
            turn.power_off(Outcome.INTERRUPTED)


def _vmm_silent(turn: Turn) -> None:
    """A job that runs may be right all the same: only its timer ends it."""
    if turn.in_phase(Phase.BOOTING) and turn.state.registration is Registration.NONE:
        turn.kill(Outcome.VMM_SILENT)
    elif turn.in_phase(Phase.BOOTING, Phase.READY, Phase.IDLE):
        turn.retire(Outcome.VMM_SILENT)


def _vm_ended(turn: Turn, event: ev.VmEnded) -> None:
    off = event.end.reason in (EndReason.POWERED_OFF, EndReason.LEFT)
    left_quietly = turn.in_phase(Phase.DRAINING) and not turn.state.busy and off
    asked = turn.state.retire_as if left_quietly and turn.state.guest_job is GuestJob.NONE else None
    outcome = asked or natural(turn.state, event.end)
    by_itself = off or event.end.reason is EndReason.RESET
    if by_itself and turn.may_have_job and turn.state.registration is Registration.HELD and turn.state.in_doubt:
        turn.settle(outcome)
    else:
        turn.finish(outcome)
