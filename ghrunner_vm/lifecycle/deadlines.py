"""What happens when a timer fires. No clock, no I/O."""

from ghrunner_vm.lifecycle import events as ev
from ghrunner_vm.lifecycle.ending import natural
from ghrunner_vm.lifecycle.events import Timer
from ghrunner_vm.lifecycle.outcome import Outcome
from ghrunner_vm.lifecycle.state import GuestJob, Phase, Registration, State
from ghrunner_vm.lifecycle.turn import Turn

_RETIRED_BY = {
    Timer.BOOT: Outcome.BOOT_TIMEOUT,
    Timer.START: Outcome.START_TIMEOUT,
    Timer.IDLE: Outcome.IDLE_TIMEOUT,
    Timer.VANISHED: Outcome.VANISHED,
}


def fired(turn: Turn, timer: Timer) -> None:
    """Do what docs/lifecycle.md says of this timer."""
    if timer not in turn.state.armed:
        return  # it fired while it was being disarmed
    turn.set(armed=turn.state.armed - {timer})
    match timer:
        case Timer.BOOT if turn.state.registration is Registration.NONE:
            turn.kill(Outcome.BOOT_TIMEOUT)
        case Timer.MINT:
            turn.power_off(turn.state.retire_as or Outcome.MINT_FAILED)
        case Timer.JOB:
            over = turn.state.guest_job is not GuestJob.NONE and not turn.state.busy
            turn.power_off(natural(turn.state) if over else Outcome.JOB_TIMEOUT)
        case Timer.VANISHED if turn.state.had_job:
            turn.retire(Outcome.JOB_DONE)
        case Timer.IDLE if turn.policy.idle is None:
            turn.retire(Outcome.JOB_TIMEOUT)
        case Timer.BOOT | Timer.START | Timer.IDLE | Timer.VANISHED:
            turn.retire(_RETIRED_BY[timer])
        case _:
            _fired_on_the_way_out(turn, timer)


def _fired_on_the_way_out(turn: Turn, timer: Timer) -> None:
    match timer:
        case Timer.DRAIN if turn.in_phase(Phase.SETTLING):
            turn.finish(_unsettled(turn.state))
        case Timer.DRAIN:
            turn.power_off(_unconfirmed(turn.state))
        case Timer.RETRY:
            turn.effects.append(ev.Deregister())
        case Timer.AFTER_JOB if turn.state.busy:
            turn.job_is_over()  # GitHub disagrees: look again, the job timer bounds it
        case Timer.AFTER_JOB:
            turn.power_off(natural(turn.state))
        case Timer.GRACE if turn.in_phase(Phase.KILLING):
            turn.finish(Outcome.VMM_CRASHED)
        case Timer.GRACE:
            turn.kill(None)


def _unconfirmed(state: State) -> Outcome:
    """How a run ends whose registration could not be deleted."""
    asked = state.retire_as or Outcome.DRAINED
    return Outcome.DRAINED_UNCONFIRMED if asked is Outcome.DRAINED else asked


def _unsettled(state: State) -> Outcome:
    """How a run ends whose machine is off while GitHub says that its job runs, or could not be asked."""
    known = state.github_busy or state.guest_job is not GuestJob.NONE or state.retire_as is Outcome.DRAINED
    return _unconfirmed(state) if known else Outcome.JOB_UNCONFIRMED
