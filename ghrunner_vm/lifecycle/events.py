"""What can happen to a run, and what the machine can ask for. Data only."""

from dataclasses import dataclass
from enum import Enum

from ghrunner_vm.vm.base import VmEnd


class Timer(Enum):
    """The deadlines of a run. docs/lifecycle.md says when each is armed and what it does."""

    BOOT = "boot"
    MINT = "mint"
    START = "start"
    IDLE = "idle"
    JOB = "job"
    DRAIN = "drain"
    RETRY = "retry"
    GRACE = "grace"
    VANISHED = "vanished"
    AFTER_JOB = "after-job"


class DrainReason(Enum):
    """Why a run is asked to end as soon as no job is lost by it."""

    SIGNAL = "a signal asked for it"
    NEW_IMAGE = "a new image is there"
    STOPPED = "an operator stopped it"


# ---- events ----


@dataclass(frozen=True)
class Launched:
    """The virtual machine runs; its guest boots.

    `registered`: with its registration, so that a job may reach it at any time. `silent`: no agent will tell of it.
    """

    registered: bool = False
    silent: bool = False


@dataclass(frozen=True)
class AgentReady:
    """The guest waits for a registration: its agent said so, or an image without one has asked for it."""


@dataclass(frozen=True)
class Minted:
    """GitHub made the registration."""


@dataclass(frozen=True)
class MintFailed:
    """GitHub did not make a registration, or its answer was lost."""

    permanent: bool
    why: str


@dataclass(frozen=True)
class ListenerStarted:
    """The listener runs: the guest says so, or GitHub sees it online."""


@dataclass(frozen=True)
class GuestRefused:
    """The guest says that it will not start a listener."""

    why: str


@dataclass(frozen=True)
class GuestJobStarted:
    """The guest says that it has a job."""


@dataclass(frozen=True)
class GuestJobFinished:
    """The guest says that its job is over."""


@dataclass(frozen=True)
class ListenerExited:
    """The guest says that its listener ended with this code."""

    code: int


@dataclass(frozen=True)
class GuestFellSilent:
    """The guest has lost its channel: from now on only GitHub tells of a job."""


@dataclass(frozen=True)
class GitHubSaysBusy:
    """GitHub says that the runner has a job."""


@dataclass(frozen=True)
class GitHubSaysIdle:
    """GitHub knows the runner and says that it has no job."""


@dataclass(frozen=True)
class GitHubSaysGone:
    """GitHub has no such runner (confirmed, not merely a 404)."""


@dataclass(frozen=True)
class Deregistered:
    """The registration is deleted: no job can arrive any more. `gone`: GitHub had no such runner before."""

    gone: bool = False


@dataclass(frozen=True)
class DeregisterRefused:
    """GitHub keeps the registration because the runner has a job."""


@dataclass(frozen=True)
class DeregisterFailed:
    """GitHub could not be asked."""


@dataclass(frozen=True)
class Drain:
    """End as soon as no job is lost by it."""

    reason: DrainReason


@dataclass(frozen=True)
class Interrupt:
    """SIGINT: end now, whatever runs."""


@dataclass(frozen=True)
class Fired:
    """A timer's time has come."""

    timer: Timer


@dataclass(frozen=True)
class VmmSilent:
    """The virtual machine's process is there but has not answered for minutes."""


@dataclass(frozen=True)
class VmEnded:
    """The virtual machine is gone."""

    end: VmEnd


Event = (
    Launched
    | AgentReady
    | Minted
    | MintFailed
    | ListenerStarted
    | GuestRefused
    | GuestJobStarted
    | GuestJobFinished
    | ListenerExited
    | GuestFellSilent
    | GitHubSaysBusy
    | GitHubSaysIdle
    | GitHubSaysGone
    | Deregistered
    | DeregisterRefused
    | DeregisterFailed
    | Drain
    | Interrupt
    | Fired
    | VmmSilent
    | VmEnded
)


# ---- effects ----


@dataclass(frozen=True)
class Arm:
    """Start a timer, or start it anew."""

    timer: Timer
    seconds: float


@dataclass(frozen=True)
class Disarm:
    """Stop a timer."""

    timer: Timer


@dataclass(frozen=True)
class Mint:
    """Ask GitHub for a registration; the answer comes as Minted or MintFailed."""


@dataclass(frozen=True)
class SendStart:
    """Hand the registration to the guest."""


@dataclass(frozen=True)
class Deregister:
    """Ask GitHub to delete the registration; the answer comes as one of the three Deregister events."""


@dataclass(frozen=True)
class Look:
    """Ask GitHub about the runner now instead of at the next poll."""


@dataclass(frozen=True)
class PowerDown:
    """Ask the guest to power off."""


@dataclass(frozen=True)
class Kill:
    """End the virtual machine at once."""


Effect = Arm | Disarm | Mint | SendStart | Deregister | Look | PowerDown | Kill
