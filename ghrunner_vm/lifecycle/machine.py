"""The pure machine: `step(state, event, policy)` gives the next state and what to do. No clock, no I/O.

Two witnesses tell of a job, the guest and GitHub; either is enough. A run that may be idle is ended only after its
registration is deleted, since only that makes sure that no job arrives in the meantime.
"""

from dataclasses import dataclass, field, replace
from enum import Enum

from ghrunner_vm.lifecycle import events as ev
from ghrunner_vm.lifecycle.events import Arm, Disarm, DrainReason, Effect, Event, Timer
from ghrunner_vm.lifecycle.outcome import Outcome
from ghrunner_vm.vm.base import EndReason, VmEnd


class Phase(Enum):
    """Where a run is in its life."""

    PREPARING = "preparing"
    BOOTING = "booting"
    READY = "ready"
    IDLE = "idle"
    BUSY = "busy"
    DRAINING = "draining"
    POWERING_OFF = "powering-off"
    KILLING = "killing"
    DONE = "done"


class Registration(Enum):
    """What we know of our registration with GitHub."""

    NONE = "none"
    MINTING = "minting"
    HELD = "held"
    RELEASED = "released"


class GuestJob(Enum):
    """What the guest has said of its job."""

    NONE = "none"
    RUNNING = "running"
    OVER = "over"


@dataclass(frozen=True)
class Policy:
    """The deadlines, in seconds. None: never."""

    boot: float
    job: float
    idle: float | None = None
    mint: float = 300.0
    start: float = 120.0
    drain: float = 600.0
    grace: float = 60.0
    reap: float = 10.0
    vanished: float = 120.0
    after_job: float = 60.0
    retries: tuple[float, ...] = (2.0, 5.0, 10.0, 30.0)
    """Pauses between attempts to delete the registration; the last one repeats."""
    shutdown_after_job: bool = True


@dataclass(frozen=True)
class State:
    """All that the machine remembers."""

    phase: Phase = Phase.PREPARING
    registration: Registration = Registration.NONE
    guest_job: GuestJob = GuestJob.NONE
    github_busy: bool = False
    listener_exit: int | None = None
    drain: DrainReason | None = None
    retire_as: Outcome | None = None
    """While draining: how the run ends if no job turns up."""
    attempts: int = 0
    interrupted: bool = False
    abandoned: bool = False
    """Interrupted twice: unwind locally and leave GitHub to gc."""
    outcome: Outcome | None = None
    armed: frozenset[Timer] = frozenset()

    @property
    def busy(self) -> bool:
        """Whether either witness tells of a job."""
        return self.github_busy or self.guest_job is GuestJob.RUNNING


def step(state: State, event: Event, policy: Policy) -> tuple[State, tuple[Effect, ...]]:
    """The state after `event`, and the effects to carry out in this order. Nothing happens after the end."""
    if state.phase is Phase.DONE:
        return state, ()
    turn = _Turn(state, policy)
    _handle(turn, event)
    return turn.state, tuple(turn.effects)


@dataclass
class _Turn:
    """One event being handled."""

    state: State
    policy: Policy
    effects: list[Effect] = field(default_factory=list)

    # ---- small moves ----

    def set(self, **changes: object) -> None:
        self.state = replace(self.state, **changes)  # type: ignore[arg-type]  # checked by the field names' tests

    def arm(self, timer: Timer, seconds: float) -> None:
        self.set(armed=self.state.armed | {timer})
        self.effects.append(Arm(timer, seconds))

    def disarm(self, *timers: Timer) -> None:
        for timer in timers:
            if timer in self.state.armed:
                self.set(armed=self.state.armed - {timer})
                self.effects.append(Disarm(timer))

    def in_phase(self, *phases: Phase) -> bool:
        return self.state.phase in phases

    # ---- ways to end ----

    def finish(self, outcome: Outcome) -> None:
        self.disarm(*Timer)
        self.set(phase=Phase.DONE, outcome=self.state.outcome or outcome)

    def power_off(self, outcome: Outcome) -> None:
        self.disarm(*Timer)
        self.set(phase=Phase.POWERING_OFF, outcome=self.state.outcome or outcome)
        self.effects.append(ev.PowerDown())
        self.arm(Timer.GRACE, self.policy.grace)

    def kill(self, outcome: Outcome | None) -> None:
        self.disarm(*Timer)
        self.set(phase=Phase.KILLING, outcome=self.state.outcome or outcome)
        self.effects.append(ev.Kill())
        self.arm(Timer.GRACE, self.policy.reap)

    def retire(self, outcome: Outcome) -> None:
        """End a run that seems idle: delete the registration first, unless no job can come any more."""
        if self.state.listener_exit is not None or self.state.registration is Registration.RELEASED:
            self.power_off(outcome)
            return
        self.disarm(Timer.START, Timer.IDLE, Timer.VANISHED)
        self.set(phase=Phase.DRAINING, retire_as=outcome, attempts=0)
        self.arm(Timer.DRAIN, self.policy.drain)
        if self.state.registration is Registration.HELD:
            self.effects.append(ev.Deregister())

    # ---- a job comes and goes ----

    def become_busy(self) -> None:
        self.disarm(Timer.START, Timer.IDLE, Timer.DRAIN, Timer.RETRY, Timer.VANISHED)
        self.set(phase=Phase.BUSY, retire_as=None)
        if Timer.JOB not in self.state.armed:
            self.arm(Timer.JOB, self.policy.job)

    def become_idle(self) -> None:
        self.set(phase=Phase.IDLE)
        if self.state.drain is not None:
            self.retire(Outcome.DRAINED)
        elif self.policy.idle is not None and self.state.listener_exit is None:
            self.arm(Timer.IDLE, self.policy.idle)

    def job_is_over(self) -> None:
        self.effects.append(ev.Look())
        if self.policy.shutdown_after_job:
            self.arm(Timer.AFTER_JOB, self.policy.after_job)
        elif self.state.drain is not None and not self.state.busy:
            self.power_off(_natural(self.state))


# ---- one handler an event ----


def _handle(turn: _Turn, event: Event) -> None:  # noqa: C901 one case an event
    match event:
        case ev.Launched():
            _launched(turn)
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
        case ev.GitHubSaysBusy():
            _github_says_busy(turn)
        case ev.GitHubSaysIdle():
            _github_says_idle(turn)
        case ev.GitHubSaysGone():
            _github_says_gone(turn)
        case ev.Deregistered():
            _deregistered(turn)
        case ev.DeregisterRefused():
            _deregister_refused(turn)
        case ev.DeregisterFailed():
            _deregister_failed(turn)
        case ev.Drain():
            _drain(turn, event)
        case ev.Interrupt():
            _interrupt(turn)
        case ev.Fired():
            _fired(turn, event)
        case ev.VmEnded():
            _vm_ended(turn, event)


def _launched(turn: _Turn) -> None:
    turn.set(phase=Phase.BOOTING)
    turn.arm(Timer.BOOT, turn.policy.boot)


def _agent_ready(turn: _Turn) -> None:
    if not turn.in_phase(Phase.BOOTING):
        return  # a second `ready` is the guest's own business
    turn.disarm(Timer.BOOT)
    turn.set(phase=Phase.READY, registration=Registration.MINTING)
    turn.effects.append(ev.Mint())
    turn.arm(Timer.MINT, turn.policy.mint)


def _minted(turn: _Turn) -> None:
    turn.disarm(Timer.MINT)
    turn.set(registration=Registration.HELD)
    if turn.in_phase(Phase.READY):
        turn.effects.append(ev.SendStart())
        turn.arm(Timer.START, turn.policy.start)
    elif turn.in_phase(Phase.DRAINING):
        turn.effects.append(ev.Deregister())


def _mint_failed(turn: _Turn, event: ev.MintFailed) -> None:
    turn.set(registration=Registration.NONE)
    if turn.in_phase(Phase.READY):
        turn.power_off(Outcome.MINT_REFUSED if event.permanent else Outcome.MINT_FAILED)
    elif turn.in_phase(Phase.DRAINING):
        turn.power_off(turn.state.retire_as or Outcome.DRAINED)


def _listener_started(turn: _Turn) -> None:
    if turn.in_phase(Phase.READY) and turn.state.registration is Registration.HELD:
        turn.disarm(Timer.START)
        turn.become_idle()


def _guest_refused(turn: _Turn) -> None:
    if turn.in_phase(Phase.READY):
        turn.power_off(Outcome.REFUSED)


def _guest_job_started(turn: _Turn) -> None:
    if _may_have_job(turn) and turn.state.guest_job is GuestJob.NONE:
        turn.set(guest_job=GuestJob.RUNNING)
        turn.become_busy()


def _guest_job_finished(turn: _Turn) -> None:
    if _may_have_job(turn) and turn.state.guest_job is not GuestJob.OVER:
        turn.become_busy()  # a start that we were not told of, or the end of one that we were
        turn.set(guest_job=GuestJob.OVER)
        turn.job_is_over()


def _listener_exited(turn: _Turn, event: ev.ListenerExited) -> None:
    if not _may_have_job(turn) or turn.state.listener_exit is not None:
        return
    had_job = turn.state.guest_job is not GuestJob.NONE or event.code in _JOB_RESULTS
    turn.set(listener_exit=event.code, guest_job=GuestJob.OVER if had_job else GuestJob.NONE)
    turn.disarm(Timer.START, Timer.IDLE)
    if turn.in_phase(Phase.READY):
        turn.set(phase=Phase.IDLE)
    turn.job_is_over()


def _github_says_busy(turn: _Turn) -> None:
    if _may_have_job(turn):
        turn.set(github_busy=True)
        turn.become_busy()


def _github_says_idle(turn: _Turn) -> None:
    turn.set(github_busy=False)
    if turn.state.registration is Registration.HELD:
        turn.disarm(Timer.VANISHED)
    _no_longer_busy(turn)
    if turn.state.registration is Registration.RELEASED:
        _suspect_ghost(turn)


def _github_says_gone(turn: _Turn) -> None:
    """The word of one poll: it may be early or stale, so the registration counts as held until it is deleted."""
    turn.set(github_busy=False)
    _no_longer_busy(turn)
    _suspect_ghost(turn)


def _deregistered(turn: _Turn) -> None:
    turn.set(registration=Registration.RELEASED, github_busy=False)
    if turn.in_phase(Phase.DRAINING):
        turn.power_off(turn.state.retire_as or Outcome.DRAINED)
        return
    _no_longer_busy(turn)
    _suspect_ghost(turn)


def _no_longer_busy(turn: _Turn) -> None:
    """GitHub has stopped saying busy. A job that the guest told of ends only by the guest's word or its timer."""
    if not turn.in_phase(Phase.BUSY):
        return
    if turn.state.guest_job is GuestJob.NONE:
        if turn.state.drain is None:  # else a GitHub that says now this, now that could put off the end for ever
            turn.disarm(Timer.JOB)
        turn.become_idle()
    elif turn.state.guest_job is GuestJob.OVER and turn.state.drain and Timer.AFTER_JOB not in turn.state.armed:
        turn.power_off(_natural(turn.state))


def _suspect_ghost(turn: _Turn) -> None:
    # The service has consumed the registration but the listener may wait for ever.
    waiting = turn.state.guest_job is GuestJob.NONE and turn.state.listener_exit is None
    unarmed = Timer.VANISHED not in turn.state.armed
    if turn.in_phase(Phase.IDLE) and waiting and unarmed and turn.policy.shutdown_after_job:
        turn.arm(Timer.VANISHED, turn.policy.vanished)


def _deregister_refused(turn: _Turn) -> None:
    if turn.in_phase(Phase.DRAINING, Phase.BUSY):
        turn.set(github_busy=True)
        turn.become_busy()


def _deregister_failed(turn: _Turn) -> None:
    if turn.in_phase(Phase.DRAINING):
        pauses = turn.policy.retries
        turn.arm(Timer.RETRY, pauses[min(turn.state.attempts, len(pauses) - 1)])
        turn.set(attempts=min(turn.state.attempts + 1, len(pauses)))


def _drain(turn: _Turn, event: ev.Drain) -> None:
    if turn.state.drain is not None:
        return
    turn.set(drain=event.reason)
    match turn.state.phase:
        case Phase.PREPARING:
            turn.finish(Outcome.DRAINED)
        case Phase.BOOTING:
            turn.kill(Outcome.DRAINED)
        case Phase.READY | Phase.IDLE:
            turn.retire(Outcome.DRAINED)
        case Phase.BUSY if not turn.state.busy and Timer.AFTER_JOB not in turn.state.armed:
            turn.power_off(_natural(turn.state))


def _interrupt(turn: _Turn) -> None:
    if turn.state.interrupted:
        turn.set(abandoned=True)
        turn.kill(Outcome.INTERRUPTED)
        return
    turn.set(interrupted=True)
    match turn.state.phase:
        case Phase.PREPARING:
            turn.finish(Outcome.INTERRUPTED)
        case Phase.BOOTING:
            turn.kill(Outcome.INTERRUPTED)
        case Phase.READY | Phase.IDLE | Phase.BUSY | Phase.DRAINING:
            turn.power_off(Outcome.INTERRUPTED)


def _vm_ended(turn: _Turn, event: ev.VmEnded) -> None:
    left_quietly = turn.in_phase(Phase.DRAINING) and not turn.state.busy and event.end.reason is EndReason.POWERED_OFF
    asked = turn.state.retire_as if left_quietly and turn.state.guest_job is GuestJob.NONE else None
    turn.finish(asked or _natural(turn.state, event.end))


def _fired(turn: _Turn, event: ev.Fired) -> None:
    if event.timer not in turn.state.armed:
        return  # it fired while it was being disarmed
    turn.set(armed=turn.state.armed - {event.timer})
    match event.timer:
        case Timer.BOOT:
            turn.kill(Outcome.BOOT_TIMEOUT)
        case Timer.MINT:
            turn.power_off(turn.state.retire_as or Outcome.MINT_FAILED)
        case Timer.JOB:
            over = turn.state.guest_job is GuestJob.OVER and not turn.state.busy
            turn.power_off(Outcome.JOB_DONE if over else Outcome.JOB_TIMEOUT)
        case Timer.START | Timer.IDLE | Timer.VANISHED:
            turn.retire(_RETIRED_BY[event.timer])
        case _:
            _fired_on_the_way_out(turn, event.timer)


def _fired_on_the_way_out(turn: _Turn, timer: Timer) -> None:
    match timer:
        case Timer.DRAIN if turn.state.retire_as is Outcome.DRAINED:
            turn.power_off(Outcome.DRAINED_UNCONFIRMED)
        case Timer.DRAIN:
            turn.power_off(turn.state.retire_as or Outcome.DRAINED_UNCONFIRMED)
        case Timer.RETRY:
            turn.effects.append(ev.Deregister())
        case Timer.AFTER_JOB if turn.state.busy:
            turn.job_is_over()  # GitHub disagrees: look again, the job timer bounds it
        case Timer.AFTER_JOB:
            turn.power_off(_natural(turn.state))
        case Timer.GRACE if turn.in_phase(Phase.KILLING):
            turn.finish(Outcome.VMM_CRASHED)
        case Timer.GRACE:
            turn.kill(None)


_RETIRED_BY = {
    Timer.START: Outcome.START_TIMEOUT,
    Timer.IDLE: Outcome.IDLE_TIMEOUT,
    Timer.VANISHED: Outcome.VANISHED,
}

# ---- what it was ----

# A listener that had a job exits with 100 + the job's result (TaskResult in the runner's sources).
_JOB_RESULTS = range(100, 106)
_OUTDATED = 7


def _may_have_job(turn: _Turn) -> bool:
    started = turn.state.registration in (Registration.HELD, Registration.RELEASED)
    return started and turn.in_phase(Phase.READY, Phase.IDLE, Phase.BUSY, Phase.DRAINING)


def _natural(state: State, end: VmEnd | None = None) -> Outcome:
    """How a run ends that nobody ended."""
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


_HOST_FAULTS = {
    EndReason.DISK_FULL: Outcome.DISK_FULL,
    EndReason.CRASHED: Outcome.VMM_CRASHED,
    EndReason.KILLED: Outcome.VMM_CRASHED,
}
