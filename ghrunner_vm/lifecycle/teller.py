"""What others are told of a run: a person or a script as it goes, and the run directory for whoever looks later."""

import contextlib

from ghrunner_vm.clock import SYSTEM, Clock
from ghrunner_vm.errors import GhvmError
from ghrunner_vm.guest import messages as said
from ghrunner_vm.guest.messages import GuestMessage
from ghrunner_vm.images.ageing import Runner, advice
from ghrunner_vm.lifecycle import events as ev
from ghrunner_vm.lifecycle.ending import JOB_RESULTS
from ghrunner_vm.lifecycle.events import Event
from ghrunner_vm.lifecycle.gauge import Gauge
from ghrunner_vm.lifecycle.plan import Tell
from ghrunner_vm.lifecycle.ssh import host_key
from ghrunner_vm.lifecycle.state import Phase, State
from ghrunner_vm.network.wall import Refusals
from ghrunner_vm.record import FailureRecord, RefusedRecord
from ghrunner_vm.ring import Ring
from ghrunner_vm.runs import RunDirectory
from ghrunner_vm.vm.base import EndReason

_QUIET = (EndReason.POWERED_OFF, EndReason.LEFT)
"""Ends that need no words."""
_LINE = 4096
"""Letters of the guest's lines that are passed on: a guest fills the memory where narration waits for its reader."""
_DESTINATIONS = 20
"""Refused destinations that are told, and kept in the record."""


class Teller:
    """Tells of one run, and writes its events and its phase to `run` once there is one."""

    def __init__(self, run_id: str, tell: Tell, clock: Clock = SYSTEM) -> None:
        self._id = run_id
        self._clock = clock
        self._tell = tell
        self.run: RunDirectory | None = None
        self.gauge: Gauge | None = None
        self.runner_log: Ring | None = None
        self._heard_ready = False
        self._heard_key = False
        self._refusals = Refusals()
        self._told = 0
        self.job_result: str | None = None
        """What the guest said of its job."""
        self.cause: str | None = None
        """What the guest, its listener or its machine did that ended the run, if that needs words."""

    def observe(self, before: State, event: Event, after: State) -> None:
        """One step of the machine."""
        self.cause = self.cause or _cause(before, event, after)
        if self.run is None:
            return
        self.run.log(type(event).__name__, phase=after.phase.value, detail=_detail(event))
        if isinstance(event, ev.Minted):
            self.registered()
        if after.phase is not before.phase or after.outcome is not before.outcome:
            self._record(phase=after.phase.value, outcome=after.outcome.label if after.outcome else None)
        if after.phase is not before.phase and after.phase in _WORDS:
            self._tell(after.phase.value, _WORDS[after.phase].format(why=_why(event, after)))
        if after.drain is not None and before.drain is None and after.busy:
            self._tell("drain", f"{after.drain.value}: the job is finished first", reason=after.drain.value)
        if isinstance(event, ev.GuestJobFinished) and before.guest_job is not after.guest_job:
            self._tell("job-finished", f"job finished: {self.job_result or 'no result'}", result=self.job_result)

    def heard(self, message: GuestMessage) -> None:
        """One message of the guest."""
        match message:
            case said.Log(text=text):
                self._keep(text)
                self._tell("guest-log", text if len(text) <= _LINE else f"{text[:_LINE]}…")
            case said.Ready(ssh_host_key=key) if not self._heard_ready:
                # A later one may be from whoever has the guest by then.
                self._heard_ready, self._heard_key = True, bool(key)
                self._record(ssh_host_key=host_key(key))
            case said.HostKey(key=key) if not self._heard_key:
                self._heard_key = True
                self._record(ssh_host_key=host_key(key))
            case said.JobFinished(result=result):
                self.job_result = self.job_result or result
            case said.JobStarted(job=job) if self.run and self.run.record.job is None:
                self._record(job=job)
            case said.Refused(why=why):
                self._tell("refused", f"the guest refused: {why}")

    def trouble(self, error: GhvmError) -> None:
        """Something went wrong that the run survives."""
        self._tell("trouble", error.brief, details=error.details, resolution=error.resolution)
        if self.run is not None:
            self.run.log("trouble", detail=error.brief)

    def warned(self, words: str) -> None:
        """The same, in words alone."""
        self.trouble(GhvmError(words))

    def refused(self, refusals: Refusals) -> None:
        """What has been kept from the guest so far."""
        if refusals == self._refusals:
            return
        known = {destination for destination, _ in self._refusals.destinations}
        self._refusals = refusals
        destinations = dict(refusals.destinations)
        for destination in [one for one in destinations if one not in known]:
            self._refused_to(destination)
        kept = dict(list(destinations.items())[:_DESTINATIONS])
        facts = {"packets": refusals.packets, "spoofed": refusals.spoofed, "destinations": kept}
        self._record(refused=RefusedRecord.of(**facts))

    def _refused_to(self, destination: str) -> None:
        if self.run is not None:
            self.run.log("Refused", detail=destination)
        self._told += 1
        if self._told <= _DESTINATIONS:
            more = "; no more of these are told" if self._told == _DESTINATIONS else ""
            self._tell("refused-to", f"the guest was refused: {destination}{more}", destination=destination)

    def registered(self) -> None:
        """GitHub made the registration."""
        self._tell("registered", f"registered as {self._id}", runner=self._id)

    def old_runner(self, runner: Runner) -> None:
        """The runner in the image can be used, but not for long."""
        until = "" if runner.until is None else f"; too old on {runner.until}"
        self.trouble(GhvmError(f"the runner {runner.words}{until}", resolution=advice(runner)))

    def image_found(self, commit: str) -> None:
        """A newer image is there."""
        self._tell("new-image", f"a newer image is published: {commit[:12]}", commit=commit)

    def channel_closed(self, why: str) -> None:
        """The guest is not listened to any more."""
        self._tell("channel-closed", f"the guest's channel is closed: {why}")

    def fetch_refused(self, why: str) -> None:
        """Somebody asked for the registration who must not have it."""
        self._tell("fetch-refused", f"a fetch of the registration was refused: {why}")

    def ended(self, error: GhvmError | None, exit_code: int) -> None:
        """The run is over; `error` is what it failed of, if one of ours tells that."""
        failure = None
        if error is not None:
            parts = {"brief": error.brief, "details": error.details, "resolution": error.resolution}
            failure = FailureRecord.of(kind=type(error).__name__, **parts, exit_code=exit_code)
        self._record(ended=self._clock.wall(), cause=self.cause, job_result=self.job_result, failure=failure)

    def _keep(self, text: str) -> None:
        with contextlib.suppress(OSError):  # a full disk: what the guest says is lost, its job is not
            if self.runner_log is not None:
                self.runner_log.write(f"{text}\n".encode(errors="replace"))

    def _record(self, **changes: object) -> None:
        if self.run is None:
            return
        try:
            self.run.update(**changes, peaks=None if self.gauge is None else self.gauge.look())
        except OSError as error:  # what the record says of the phase is not worth a job
            self._tell("trouble", f"the run's record could not be written: {error.strerror}")


_WORDS = {
    Phase.BOOTING: "the guest boots",
    Phase.READY: "guest is up and waits for its registration",
    Phase.IDLE: "listening for a job",
    Phase.BUSY: "job started",
    Phase.DRAINING: "draining: {why}",
    Phase.POWERING_OFF: "powering off",
    Phase.KILLING: "ending the virtual machine",
    Phase.SETTLING: "the guest powered off; GitHub is asked whether it had a job",
}


def _why(event: Event, state: State) -> str:
    if state.drain is not None:
        return state.drain.value
    return state.retire_as.words if state.retire_as else type(event).__name__


def _cause(before: State, event: Event, after: State) -> str | None:
    match event:
        case ev.GuestRefused(why=why) if before.outcome is not after.outcome:
            return f"The guest says: {why}"
        case ev.ListenerExited(code=code) if code not in (0, *JOB_RESULTS) and after.listener_exit == code:
            return f"The runner's listener exited with code {code}."
        case ev.VmEnded(end=end) if before.outcome is None and end.reason not in _QUIET:
            return f"The virtual machine ended: {end.reason.value}. {end.detail}".strip()
    return None


def _detail(event: Event) -> str | None:
    match event:
        case ev.Fired(timer=timer):
            return timer.value
        case ev.VmEnded(end=end):
            return f"{end.reason.value} {end.detail}".strip()
        case ev.MintFailed(why=why) | ev.GuestRefused(why=why):
            return why
        case ev.ListenerExited(code=code):
            return str(code)
        case ev.Drain(reason=reason):
            return reason.value
    return None
