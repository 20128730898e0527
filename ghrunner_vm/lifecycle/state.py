"""All that the machine knows of a run, and the deadlines that it goes by. Data only."""

from dataclasses import dataclass
from enum import Enum

from ghrunner_vm.lifecycle.events import DrainReason, Timer
from ghrunner_vm.lifecycle.outcome import Outcome


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
    SETTLING = "settling"
    """The machine is off; GitHub is asked what became of its registration."""
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
    LOST = "lost"
    """Its listener ended in the middle of it."""


@dataclass(frozen=True)
class Policy:
    """The deadlines, in seconds. None: never."""

    boot: float
    job: float
    idle: float | None = None
    mint: float = 300.0
    start: float = 120.0
    drain: float = 600.0
    settle: float = 60.0
    lag: float = 5.0
    """How late the service may be to forget a runner that has done its job."""
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
    silent: bool = False
    """The guest tells nothing of its job: its image has no agent, or it has lost its channel."""
    guest_job: GuestJob = GuestJob.NONE
    github_busy: bool = False
    had_job: bool = False
    """GitHub has told of a job at some time."""
    listener_exit: int | None = None
    drain: DrainReason | None = None
    retire_as: Outcome | None = None
    """While draining or settling: how the run ends if no job turns up."""
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

    @property
    def in_doubt(self) -> bool:
        """Whether GitHub has to say what became of the job: the guest cannot, or GitHub disagrees with it."""
        return self.silent or (self.guest_job is GuestJob.OVER and self.github_busy)
