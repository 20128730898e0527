"""The registration of one runner with GitHub, recorded so that a crash at any moment orphans nothing."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence

from ghrunner_vm.clock import SYSTEM, Clock
from ghrunner_vm.errors import GhvmError, InfrastructureError, PermanentError
from ghrunner_vm.github.client import GitHub
from ghrunner_vm.github.faults import LostResponse, NameTaken
from ghrunner_vm.github.limits import RateLimited
from ghrunner_vm.github.models import JitConfig, Removal, Sight
from ghrunner_vm.lifecycle import events as ev
from ghrunner_vm.lifecycle.events import Event
from ghrunner_vm.record import RunnerRecord
from ghrunner_vm.runs import RunDirectory
from ghrunner_vm.threads import in_daemon_thread

RELEASE_SECONDS = 30.0
_APPEARS_WITHIN = 300.0
_PATIENCE_SECONDS = 120.0
"""How long a machine that is up waits until GitHub's rate limit lets it register."""


class Registration:
    """What this run holds at GitHub. `trouble` hears of every failure that the run survives."""

    def __init__(
        self,
        github: GitHub,
        run: RunDirectory,
        labels: Sequence[str],
        group_id: int,
        trouble: Callable[[GhvmError], None],
        clock: Clock = SYSTEM,
    ) -> None:
        self._github = github
        self._run = run
        self._labels = labels
        self._group_id = group_id
        self._trouble = trouble
        self._clock = clock
        self._registered = asyncio.Event()
        self._asking: asyncio.Future[JitConfig] | None = None
        self.config: JitConfig | None = None
        self.refusal: GhvmError | None = None
        """Why GitHub did not register the runner."""

    @property
    def name(self) -> str:
        """The runner's name: the run's, so that one word finds it everywhere."""
        return self._run.record.id

    def secret(self) -> str:
        """The registration for the guest."""
        return self._minted().encoded.get_secret_value()

    async def mint(self) -> Event:
        """Register the runner. Only a rate limit, by which GitHub makes nothing, is waited for to ask once more.

        A lost answer ends the run. To ask again would take another name, and the name is the run's: a new run has one.
        """
        patience = _PATIENCE_SECONDS
        while (refusal := await self._ask()) is not None:
            if not isinstance(refusal, RateLimited) or refusal.retry_after > patience:
                self.refusal = refusal
                return ev.MintFailed(isinstance(refusal, PermanentError), refusal.brief)
            patience -= refusal.retry_after
            await self._keep_silent(refusal)
        return ev.Minted()

    async def _ask(self) -> GhvmError | None:
        """Ask once, under this name; why GitHub did not register the runner. The record comes first."""
        asked = self._clock.wall()
        runner = RunnerRecord.of(
            name=self.name, api_url=self._github.api_url, scope=str(self._github.scope), asked=asked
        )
        try:
            self._run.update(runner=runner)
        except OSError as error:
            return _unwritable(error)
        self._asking = asyncio.ensure_future(in_daemon_thread(self._generate, name="mint"))
        try:
            # A run that ends meanwhile still has to hear the answer: see release.
            self._learn(await asyncio.shield(self._asking))
        except GhvmError as error:
            # A name that nobody else can have is taken by our own request, if something on the way repeated it.
            if not isinstance(error, LostResponse | NameTaken):
                self.forget()  # GitHub made nothing
            return error
        return None

    async def sight(self) -> Sight:
        """How GitHub sees the runner; waits until it is registered."""
        await self._registered.wait()
        config = self._minted()
        return await in_daemon_thread(lambda: self._github.sight(config.runner_id, config.name), name="sight")

    async def deregister(self) -> Event:
        """Delete the registration; only then is it sure that no job comes."""
        config = self._minted()
        try:
            removal = await in_daemon_thread(lambda: self._github.remove(config.runner_id, config.name), name="remove")
        except RateLimited as error:
            await self._keep_silent(error)
            return ev.DeregisterFailed()
        except GhvmError as error:
            self._trouble(error)
            return ev.DeregisterFailed()
        if removal is Removal.BUSY:
            return ev.DeregisterRefused()
        self.forget()
        return ev.Deregistered(gone=removal is Removal.GONE)

    def forget(self) -> None:
        """GitHub holds nothing of this run any more."""
        self._note(state="released")

    async def release(self) -> None:
        """At the end of a run: delete what may be left. What cannot be deleted now stays recorded for gc."""
        if self._asking is not None and self.config is None:
            with contextlib.suppress(GhvmError):
                self._learn(await self._asking)
        record = self._run.record.runner
        if record is None or record.state == "released":
            return
        now = self._clock.wall()
        try:
            released = await in_daemon_thread(lambda: release_recorded(self._github, record, now), name="release")
        except GhvmError as error:
            self._trouble(error)
            return
        if released:
            self.forget()
        if released and record.id is None:
            brief = f"GitHub's answer to the registration of {record.name} was lost; nothing is left of it"
            self._trouble(GhvmError(brief))

    async def _keep_silent(self, limit: RateLimited) -> None:
        self._trouble(limit)
        await in_daemon_thread(lambda: self._clock.sleep(limit.retry_after), name="silence")

    def _learn(self, config: JitConfig) -> None:
        self.config = config
        self._registered.set()
        self._note(id=config.runner_id, state="registered")

    def _note(self, **changes: object) -> None:
        """Write down what became of the runner. gc finds it by its name, so a full disk ends nothing here."""
        if self._run.record.runner is None:
            return
        try:
            self._run.update(runner=self._run.record.runner.model_copy(update=changes))
        except OSError as error:
            self._trouble(_unwritable(error))

    def _generate(self) -> JitConfig:
        return self._github.generate_jitconfig(self.name, group_id=self._group_id, labels=self._labels)

    def _minted(self) -> JitConfig:
        if self.config is None:
            raise RuntimeError("no registration yet")
        return self.config


def _unwritable(error: OSError) -> GhvmError:
    return InfrastructureError(
        "the run's record could not be written",
        details=f"{error.filename or 'run.json'}: {error.strerror}",
        resolution="Make room where runs are kept (--state-dir).",
    )


def release_recorded(github: GitHub, record: RunnerRecord, now: float) -> bool:
    """Delete a recorded registration: by its id, or by its exact name if the id was never learnt.

    False if GitHub keeps it because it believes that a job runs (it does for minutes after a busy VM died), or if
    the answer to the registration was lost so lately that the runner may still appear. `now` is seconds since 1970.
    """
    runner_id = record.id
    if runner_id is None:
        runner = github.runner_named(record.name)
        if runner is None:
            return abs(now - record.asked) > _APPEARS_WITHIN  # the clock may have been set back
        runner_id = runner.id
    return github.remove(runner_id, record.name) is not Removal.BUSY


@contextlib.asynccontextmanager
async def released_at_end(registration: Registration, abandoned: asyncio.Event) -> AsyncIterator[None]:
    """Release at the end of the block, within 30 s, and not at all once `abandoned` is set."""
    try:
        yield
    finally:
        releasing = asyncio.create_task(registration.release())
        giving_up = asyncio.create_task(abandoned.wait())
        try:
            await asyncio.wait({releasing, giving_up}, timeout=RELEASE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (releasing, giving_up):
                task.cancel()
