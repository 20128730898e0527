"""How a run ends that nobody ended. Pure."""

from ghrunner_vm.lifecycle.outcome import Outcome
from ghrunner_vm.lifecycle.state import GuestJob, Phase, Registration, State
from ghrunner_vm.vm.base import EndReason, VmEnd

# A listener that had a job exits with 100 + the job's result (TaskResult in the runner's sources).
JOB_RESULTS = range(100, 106)
_OUTDATED = 7

_HOST_FAULTS = {
    EndReason.DISK_FULL: Outcome.DISK_FULL,
    EndReason.CRASHED: Outcome.VMM_CRASHED,
    EndReason.KILLED: Outcome.VMM_CRASHED,
}


def natural(state: State, end: VmEnd | None = None) -> Outcome:
    """The outcome that follows from what is known, and from the machine's end if it has ended."""
    if state.guest_job is GuestJob.OVER:
        return Outcome.JOB_DONE
    if end is not None and end.reason in _HOST_FAULTS:
        return _HOST_FAULTS[end.reason]
    if state.phase in (Phase.PREPARING, Phase.BOOTING, Phase.READY):
        return Outcome.BOOT_FAILED
    if end is not None and end.reason is EndReason.PANICKED:
        return Outcome.PANICKED
    if state.listener_exit is not None:
        return {0: Outcome.NO_JOB, _OUTDATED: Outcome.OUTDATED}.get(state.listener_exit, Outcome.LISTENER_FAILED)
    if state.busy:
        return Outcome.JOB_LOST
    return Outcome.VANISHED if state.registration is Registration.RELEASED else Outcome.GUEST_LEFT
