"""How a run ends that nobody ended. Pure."""

from ghrunner_vm.lifecycle.outcome import Outcome
from ghrunner_vm.lifecycle.state import GuestJob, Phase, Registration, State
from ghrunner_vm.vm.base import EndReason, VmEnd

# What the runner's listener exits with: ReturnCode in its sources, and 100 + TaskResult after a job.
JOB_RESULTS = range(100, 106)
_SUCCESS = 0
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
    if state.guest_job is GuestJob.LOST:
        return Outcome.JOB_LOST
    if state.listener_exit is not None:
        return _without_a_job(state, state.listener_exit)
    if state.busy:
        return Outcome.JOB_LOST
    return Outcome.VANISHED if state.registration is Registration.RELEASED else Outcome.GUEST_LEFT


def after_exit(job: GuestJob, code: int) -> GuestJob:
    """What becomes of the guest's job when its listener exits."""
    if code in JOB_RESULTS or (code == _SUCCESS and job is GuestJob.RUNNING):
        return GuestJob.OVER
    return GuestJob.LOST if job is GuestJob.RUNNING else job


def _without_a_job(state: State, code: int) -> Outcome:
    if code == _SUCCESS:
        return Outcome.NO_JOB
    # A runner that GitHub gives a job is not outdated: such a claim would keep this host from starting another.
    return Outcome.OUTDATED if code == _OUTDATED and not state.had_job else Outcome.LISTENER_FAILED
