"""What a run is given, and what it gives back."""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ghrunner_vm.clock import SYSTEM, Clock
from ghrunner_vm.errors import GhvmError
from ghrunner_vm.github.client import GitHub
from ghrunner_vm.history import History
from ghrunner_vm.images.manifest import Manifest
from ghrunner_vm.images.store import LeasedImage
from ghrunner_vm.lifecycle.network import Connect
from ghrunner_vm.lifecycle.outcome import Outcome
from ghrunner_vm.lifecycle.state import Policy
from ghrunner_vm.spec import Spec
from ghrunner_vm.vm.admission import Rules
from ghrunner_vm.vm.base import Accelerator, Engine
from ghrunner_vm.vm.jail import Identity


class Tell(Protocol):
    """Hears of every step of a run: a stable name for scripts, words for people, facts."""

    def __call__(self, step: str, words: str, **facts: object) -> None: ...


class Images(Protocol):
    """Where images come from."""

    def fetch(self, name: str, cancelled: Callable[[], bool], accept: Callable[[Manifest], object]) -> str:
        """The commit of the image to use, which is then in the cache; `accept` may refuse it first. Blocks."""
        ...

    def lease(self, commit: str, name: str) -> contextlib.AbstractContextManager[LeasedImage]:
        """The verified image, kept as long as the block lasts. Blocks while it is being verified."""
        ...

    def newer(
        self, running: LeasedImage, cancelled: Callable[[], bool], accept: Callable[[Manifest], object]
    ) -> str | None:
        """The commit of a newer image, which is then in the cache and verified. Blocks."""
        ...

    def tidy(self) -> None:
        """Remove what nobody needs any more. Blocks."""
        ...


@dataclass(frozen=True)
class Plan:
    """What a run needs to know."""

    spec: Spec
    policy: Policy
    runs: Path
    history: History
    sockets: Path
    identities: Path
    uid_base: int
    uid_count: int
    name: str | None
    group_id: int
    ssh_port: int | None
    poll_seconds: float
    image_poll_seconds: float
    """0: nothing looks for a newer image."""
    admission: Rules
    """How much of this host its machines may be promised."""
    runner_max_age_days: int = 30
    """The age at which the runner in an image is refused; 0: never."""
    learn: Path | None = None
    """The list to which what the guest reaches is added."""
    pause: float = 0.0
    """Seconds to wait before the run begins, since the last ones failed."""
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Means:
    """What a run works with."""

    github: GitHub
    images: Images
    accelerator: Callable[[Identity], Accelerator]
    engine: Callable[[Identity], Engine]
    connect: Connect
    collect: Callable[[], None]
    """Remove what dead runs left (gc). Blocks."""
    newest_runner: Callable[[], str | None] = lambda: None
    """The version of the runner that GitHub offers; None if it does not tell. Blocks."""
    clock: Clock = SYSTEM


@dataclass(frozen=True)
class Ended:
    """How a run ended. `console` is the last of what the guest printed: untrusted text."""

    id: str
    outcome: Outcome
    seconds: float
    job_result: str | None
    cause: str | None
    """What the guest, its listener or its machine did to end it so."""
    console: str
    refusal: GhvmError | None
    """Why GitHub refused to register the runner."""
