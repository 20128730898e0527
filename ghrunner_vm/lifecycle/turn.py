"""One event on its way through the machine: the moves that its handlers are made of. No clock, no I/O."""

from dataclasses import dataclass, field, replace

from ghrunner_vm.lifecycle import events as ev
from ghrunner_vm.lifecycle.ending import natural
from ghrunner_vm.lifecycle.events import Arm, Disarm, Effect, Timer
from ghrunner_vm.lifecycle.outcome import Outcome
from ghrunner_vm.lifecycle.state import GuestJob, Phase, Policy, Registration, State


@dataclass
class Turn:
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

    @property
    def may_have_job(self) -> bool:
        """Whether a job can have reached the guest."""
        registered = self.state.registration in (Registration.HELD, Registration.RELEASED)
        return registered and self.in_phase(Phase.BOOTING, Phase.READY, Phase.IDLE, Phase.BUSY, Phase.DRAINING)

    @property
    def has_listener(self) -> bool:
        """Whether the guest can have something to tell of a job: after its listener's exit there is no more."""
        return self.may_have_job and self.state.listener_exit is None

    @property
    def patience(self) -> float:
        """How long GitHub is asked to delete the registration: as long as a job, if it alone can tell of one."""
        unseen = self.state.silent and self.state.drain is None
        return max(self.policy.drain, self.policy.job) if unseen else self.policy.drain

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
        self.disarm(Timer.BOOT, Timer.START, Timer.IDLE, Timer.VANISHED)
        self.set(phase=Phase.DRAINING, retire_as=outcome, attempts=0)
        self.arm(Timer.DRAIN, self.patience)
        if self.state.registration is Registration.HELD:
            self.effects.append(ev.Deregister())

    def settle(self, outcome: Outcome) -> None:
        """The machine is off and its guest told nothing: GitHub says whether it had a job, else it is `outcome`.

        A runner that GitHub does not know any more had one. The service may be late to forget it, so it is looked for
        first, and deleted only after a while.
        """
        asked = self.in_phase(Phase.DRAINING) and self.state.registration is Registration.HELD
        self.disarm(*(set(Timer) - {Timer.RETRY}))
        self.set(phase=Phase.SETTLING, retire_as=outcome, attempts=0, github_busy=False)
        self.arm(Timer.DRAIN, self.policy.settle)
        if not asked:
            self.effects.append(ev.Look())
            self.arm(Timer.RETRY, self.policy.lag)

    def try_again(self) -> None:
        """Ask GitHub once more after a pause, which grows."""
        pauses = self.policy.retries
        self.arm(Timer.RETRY, pauses[min(self.state.attempts, len(pauses) - 1)])
        self.set(attempts=min(self.state.attempts + 1, len(pauses)))

    # ---- a job comes and goes ----

    def become_busy(self) -> None:
        self.disarm(Timer.BOOT, Timer.START, Timer.IDLE, Timer.DRAIN, Timer.RETRY, Timer.VANISHED)
        self.set(phase=Phase.BUSY, retire_as=None)
        if Timer.JOB not in self.state.armed:
            self.arm(Timer.JOB, self.policy.job)

    def become_idle(self) -> None:
        self.set(phase=Phase.IDLE)
        if self.state.drain is not None:
            self.retire(Outcome.DRAINED)
        elif self.policy.idle is not None and self.state.listener_exit is None:
            self.arm(Timer.IDLE, self.policy.idle)

    def suspect_ghost(self) -> None:
        """The service has consumed the registration, but the listener may wait for ever."""
        waiting = self.state.guest_job is GuestJob.NONE and self.state.listener_exit is None
        unarmed = Timer.VANISHED not in self.state.armed
        up = self.in_phase(Phase.IDLE) or (self.state.silent and self.in_phase(Phase.BOOTING, Phase.READY))
        if up and waiting and unarmed and self.policy.shutdown_after_job:
            self.arm(Timer.VANISHED, self.policy.vanished)

    def job_is_over(self) -> None:
        self.effects.append(ev.Look())
        if self.policy.shutdown_after_job:
            self.arm(Timer.AFTER_JOB, self.policy.after_job)
        elif self.state.drain is not None and not self.state.busy:
            self.power_off(natural(self.state))
