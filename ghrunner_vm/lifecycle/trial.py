"""A registration for a look. It is on record before GitHub is asked, as a run's is, and deleted again.

Its run directory has no virtual machine. A crash leaves it to `ghvm gc`, like any other.
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ghrunner_vm import process, runs
from ghrunner_vm.clock import SYSTEM, Clock
from ghrunner_vm.errors import GhvmError, InfrastructureError
from ghrunner_vm.github.client import GitHub
from ghrunner_vm.github.models import JitConfig
from ghrunner_vm.lifecycle.registration import Registration, released_at_end
from ghrunner_vm.lifecycle.sources import signals
from ghrunner_vm.record import ProcessRecord, RunRecord
from ghrunner_vm.runs import RunDirectory

NAME = "ghvm-token"
"""Begins the names of such runners; without other labels it is their label too."""


@dataclass(frozen=True)
class Wish:
    """What to register, and whether it stays."""

    labels: Sequence[str]
    group_id: int
    keep: bool = False


def register(
    github: GitHub,
    directory: Path,
    wish: Wish,
    look: Callable[[JitConfig], None],
    trouble: Callable[[GhvmError], None],
    clock: Clock = SYSTEM,
) -> str:
    """Register a runner, look at its configuration, and delete it whatever happens, unless it is to stay. Its name.

    The first Ctrl-C, SIGTERM or SIGHUP hurries to the deletion, a second one leaves that to gc; both raise
    KeyboardInterrupt. `trouble` hears of what is survived. Raises what `look` raises, why GitHub did not register the
    runner, and InfrastructureError when it is still registered at the end.
    """
    trial = _Trial(github, wish, look, trouble, clock)
    try:
        with runs.create(directory, _record(wish, clock.wall()), clock) as run:
            asyncio.run(trial.run(run))
    except BaseException:
        trial.tell_left()
        raise
    if trial.interrupted:
        trial.tell_left()
        raise KeyboardInterrupt
    if trial.left is not None:
        raise trial.left
    return run.record.id


class _Trial:
    """One registration from beginning to end."""

    def __init__(
        self,
        github: GitHub,
        wish: Wish,
        look: Callable[[JitConfig], None],
        trouble: Callable[[GhvmError], None],
        clock: Clock,
    ) -> None:
        self._github = github
        self._wish = wish
        self._look = look
        self._trouble = trouble
        self._clock = clock
        self.interrupted = False
        self.left: InfrastructureError | None = None
        """Set if GitHub may hold the registration at the end."""

    async def run(self, run: RunDirectory) -> None:
        wish = self._wish
        abandoned = asyncio.Event()
        registration = Registration(self._github, run, wish.labels, wish.group_id, self._trouble, self._clock)
        minting = asyncio.ensure_future(registration.mint())

        def interrupt() -> None:
            if self.interrupted:
                abandoned.set()
            self.interrupted = True
            minting.cancel()

        with signals(interrupt, interrupt):
            try:
                async with released_at_end(registration, abandoned):
                    await asyncio.wait({minting})
                    if not self.interrupted:
                        minting.result()
                        self._use(registration)
            finally:
                self.left = None if run.settled else _left(registration.name)

    def tell_left(self) -> None:
        """For an end that has another reason."""
        if self.left is not None:
            self._trouble(self.left)

    def _use(self, registration: Registration) -> None:
        if registration.refusal is not None:
            raise registration.refusal
        assert registration.config is not None  # noqa: S101 it was minted
        self._look(registration.config)
        if self._wish.keep:
            registration.forget()  # from here on it belongs to the person who asked


def _left(name: str) -> InfrastructureError:
    return InfrastructureError(
        f"{name} may still be registered",
        details="It is on record here.",
        resolution="Run `ghvm runners prune` with the same options later; every `ghvm gc` and `ghvm run` tries it too.",
    )


def _record(wish: Wish, now: float) -> RunRecord:
    return RunRecord.of(
        id=runs.new_id(NAME),
        boot_id=process.boot_id(),
        supervisor=ProcessRecord.of(pid=os.getpid(), started=process.start_time(os.getpid()) or 0),
        label=wish.labels[0],
        trial=True,
        image="none",
        since=now,
        created=now,
    )
