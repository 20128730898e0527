"""One run from beginning to end, on one exit stack: what was made is unmade in the opposite order."""

import asyncio
import contextlib
import os
from collections.abc import Mapping
from typing import TypeVar

from ghrunner_vm import process, runs
from ghrunner_vm.errors import GhvmError, InfrastructureError, told
from ghrunner_vm.files import lock, shared_lock
from ghrunner_vm.github.models import Sight
from ghrunner_vm.images.manifest import Manifest
from ghrunner_vm.images.store import LeasedImage
from ghrunner_vm.ledger import Ledger
from ghrunner_vm.lifecycle import disks, learning
from ghrunner_vm.lifecycle import events as ev
from ghrunner_vm.lifecycle.acceptance import Acceptance
from ghrunner_vm.lifecycle.admission import admit
from ghrunner_vm.lifecycle.agent import AgentImage, Handover
from ghrunner_vm.lifecycle.contract import Contract
from ghrunner_vm.lifecycle.control import OpenSsh, Request, Stop, control_socket
from ghrunner_vm.lifecycle.disks import Layers
from ghrunner_vm.lifecycle.driver import Driver
from ghrunner_vm.lifecycle.events import DrainReason, Event
from ghrunner_vm.lifecycle.gauge import Gauge
from ghrunner_vm.lifecycle.network import GuestNetwork
from ghrunner_vm.lifecycle.outcome import Outcome
from ghrunner_vm.lifecycle.plain import PlainImage
from ghrunner_vm.lifecycle.plan import Ended, Means, Plan, Tell
from ghrunner_vm.lifecycle.registration import Registration, released_at_end
from ghrunner_vm.lifecycle.sources import (
    await_end,
    background,
    read_console,
    signals,
    watch_github,
    watch_refusals,
    watch_vmm,
)
from ghrunner_vm.lifecycle.ssh import RunKey
from ghrunner_vm.lifecycle.state import Phase, State
from ghrunner_vm.lifecycle.teller import Teller
from ghrunner_vm.lifecycle.watcher import watch_image
from ghrunner_vm.network.wall import Refusals
from ghrunner_vm.record import MachineRecord, ProcessRecord, RunRecord
from ghrunner_vm.ring import Ring, tail
from ghrunner_vm.runs import RunDirectory
from ghrunner_vm.threads import in_daemon_thread
from ghrunner_vm.units import format_seconds
from ghrunner_vm.vm.base import Accelerator, VirtualMachine, VmDescription
from ghrunner_vm.vm.jail import Identity, lease_identity

T = TypeVar("T")
_LEARNING = "learning.lock"
"""The lock of whoever writes down what guests have reached."""
_CONSOLE_TAIL = 4000
"""Bytes: a kernel panic with its registers takes more than 2000, and its first line says the most."""


async def run(plan: Plan, means: Means, tell: Tell) -> Ended:
    """Supervise one run. Raises GhvmError if it cannot be prepared; an interrupted preparation is an outcome."""
    began = means.clock.monotonic()
    async with contextlib.AsyncExitStack() as stack:
        session = _Session(plan, means, tell, stack)
        stack.enter_context(signals(session.drain, session.interrupt))
        preparing = asyncio.create_task(session.prepare())
        preparing.add_done_callback(session.prepared)
        try:
            state = await session.driver.run()
        except Exception as error:
            session.failed(told(error))
            raise
        finally:
            preparing.cancel()
            await asyncio.wait({preparing})
        assert state.outcome is not None  # noqa: S101 the machine sets it before DONE
        tell("ended", state.outcome.words, outcome=state.outcome.label, exit_code=int(state.outcome.exit_code))
        await session.look_back()
        ended = session.ended(state.outcome, means.clock.monotonic() - began)
    tell(
        "gone", "nothing of it is left" if session.settled else "GitHub still holds its registration: gc will ask again"
    )
    return ended


class _Session:
    """The parts of one run while it lives."""

    def __init__(self, plan: Plan, means: Means, tell: Tell, stack: contextlib.AsyncExitStack) -> None:
        self._plan = plan
        self._means = means
        self._tell = tell
        self._stack = stack
        self._id = runs.new_id(plan.name or plan.spec.label)
        self._run: RunDirectory | None = None
        self._machine: VirtualMachine | None = None
        self._network: GuestNetwork | None = None
        self._registration: Registration | None = None
        self._teller = Teller(self._id, tell, means.clock)
        self._abandoned = asyncio.Event()
        self._cancelled = False
        self._accept = Acceptance(plan.spec, plan.runner_max_age_days, means.clock, means.newest_runner)
        self.driver = Driver(plan.policy, self._observe)

    @property
    def settled(self) -> bool:
        return self._run is None or self._run.settled

    # ---- what people and signals ask for ----

    def drain(self) -> None:
        self.driver.post(ev.Drain(DrainReason.SIGNAL))

    def interrupt(self) -> None:
        if self.driver.state.interrupted or self.driver.state.phase is Phase.DONE:
            self._abandoned.set()
        self.driver.post(ev.Interrupt())

    def _stop(self, request: Stop) -> None:
        match request.how:
            case "drain":
                self.driver.post(ev.Drain(DrainReason.STOPPED))
            case "now":
                self.driver.post(ev.Interrupt())
            case "force":
                self.driver.post(ev.Interrupt())
                self.driver.post(ev.Interrupt())

    async def _control(self, request: Request) -> Mapping[str, object]:
        assert self._run is not None  # noqa: S101 the socket comes after the directory
        match request:
            case Stop():
                self._stop(request)
                return {"ok": True}
            case OpenSsh():
                return {"port": await self._ssh_port(self._run)}
        return self._run.record.model_dump(by_alias=True)

    async def _ssh_port(self, run: RunDirectory) -> int:
        if run.record.ssh_port is None:
            if self._machine is None or self._network is None:
                raise InfrastructureError("the run has no machine yet", resolution="Try again in a moment.")
            machine, network = self._machine, self._network
            port = await (machine.forward_ssh() if machine.has_ssh else network.forward_ssh(machine))
            with contextlib.suppress(OSError):  # a full disk: the run knows the port all the same
                run.update(ssh_port=port)
        assert run.record.ssh_port is not None  # noqa: S101 set just now
        return run.record.ssh_port

    # ---- preparation, step by step ----

    def prepared(self, task: asyncio.Task[None]) -> None:
        self._cancelled = True
        if not task.cancelled() and (error := task.exception()) is not None:
            self.driver.fail(error)

    async def prepare(self) -> None:
        plan, means = self._plan, self._means
        run = self._run = self._teller.run = self._stack.enter_context(
            runs.create(plan.runs, self._record(), means.clock, bury=plan.history.keep)
        )
        self._tell("run", f"run {run.record.id}", run=run.record.id)
        await self._stack.enter_async_context(control_socket(plan.sockets / f"{self._id}.sock", self._control))
        if plan.pause:
            self._tell("pause", f"the last starts failed: this one waits {format_seconds(plan.pause)}")
            await asyncio.sleep(plan.pause)
        identity = self._stack.enter_context(lease_identity(plan.identities, plan.uid_base, plan.uid_count))
        accelerator = await in_daemon_thread(lambda: means.accelerator(identity), name="probe")
        await in_daemon_thread(lambda: self._admit(run, accelerator), name="admission")
        await in_daemon_thread(lambda: means.github.check(self._id, plan.group_id), name="github")
        image = await self._image(run)
        layers = await self._made(disks.layers(run.path, image, plan.spec))
        network = self._network = await self._stack.enter_async_context(means.connect(self._teller.warned))
        registration = await self._register(run)
        contract = await self._contract(run, image.manifest, registration, network)
        description = self._describe(run, image, layers, accelerator, identity, contract, network)
        machine = await self._launch(run, identity, description)
        await self._supervise(run, machine, registration, contract)
        if plan.image_poll_seconds:
            await self._stack.enter_async_context(background(self._watch_image(image), self.driver.fail))

    async def _image(self, run: RunDirectory) -> LeasedImage:
        name, images = self._plan.spec.image, self._means.images

        def fetch() -> str:
            return images.fetch(name, lambda: self._cancelled, self._accept)

        commit = await in_daemon_thread(fetch, name="pull")
        image = await self._enter(images.lease(commit, name))
        run.update(commit=commit)
        runner = await in_daemon_thread(lambda: self._accept(image.manifest), name="runner")
        if runner.until is not None:
            run.update(runner_until=runner.until)
        if runner.old:
            self._teller.old_runner(runner)
        await in_daemon_thread(images.tidy, name="tidy")
        by = image.signature
        signed = "" if by is None else f", signed by key {by.key}"
        facts = {} if by is None else {"key": by.key, "serial": by.serial}
        self._tell("image", f"image {name} {commit[:12]} verified{signed}", image=name, commit=commit, **facts)
        return image

    async def _enter(self, resource: contextlib.AbstractContextManager[T]) -> T:
        # Verifying an image or making a disk may take a while, so it happens beside the loop; leaving is quick.
        value = await in_daemon_thread(resource.__enter__, name="lease")
        self._stack.push(resource)
        return value

    async def _made(self, resource: contextlib.AbstractContextManager[T]) -> T:
        """Enter it to the end even if the run ends meanwhile: it writes to the run's directory, which goes next."""
        entering = asyncio.ensure_future(self._enter(resource))
        try:
            return await asyncio.shield(entering)
        except asyncio.CancelledError:
            await asyncio.gather(entering, return_exceptions=True)
            raise

    async def _register(self, run: RunDirectory) -> Registration:
        """The run's claim on a registration. None is asked for before its time comes."""
        labels, group = self._plan.spec.all_labels, self._plan.group_id
        registration = Registration(self._means.github, run, labels, group, self._teller.trouble, self._means.clock)
        self._registration = registration
        await self._stack.enter_async_context(released_at_end(registration, self._abandoned))
        return registration

    async def _contract(
        self, run: RunDirectory, manifest: Manifest, registration: Registration, network: GuestNetwork
    ) -> Contract:
        keep_running = not self._plan.policy.shutdown_after_job
        if manifest.agent is not None:
            handover = Handover(self._means.clock, keep_running, RunKey(run.path, self._id), self._plan.environment)
            teller = self._teller
            return AgentImage(registration, handover, self.driver.post, teller.heard, teller.channel_closed)
        plain = PlainImage(registration, network, self.driver.post, self._teller.fetch_refused)
        offered = plain.offered(self._plan.spec.credential, keep_running=keep_running)
        await self._stack.enter_async_context(offered)
        if plain.launched.registered:
            self._teller.registered()
        return plain

    async def _launch(self, run: RunDirectory, identity: Identity, description: VmDescription) -> VirtualMachine:
        launch = self._means.engine(identity).launch(description, run.path)
        machine = self._machine = await self._stack.enter_async_context(launch)
        if machine.has_ssh and self._plan.ssh_port is not None:
            await machine.forward_ssh(self._plan.ssh_port)
        run.update(vmm=ProcessRecord.of(pid=machine.pid, started=machine.started))
        words = f"virtual machine launched ({description.accelerator}, cores: {description.cores})"
        self._tell("launched", words, accelerator=description.accelerator, pid=machine.pid)
        return machine

    def _admit(self, run: RunDirectory, accelerator: Accelerator) -> None:
        plan, spec = self._plan, self._plan.spec
        sizes = {"cores": spec.cpu_cores, "ram": spec.memory, "root_disk": spec.disk}
        machine = MachineRecord.of(accelerator=accelerator, **sizes)
        admit(run, machine, Ledger(plan.runs, plan.history), plan.admission)

    def _describe(
        self,
        run: RunDirectory,
        image: LeasedImage,
        layers: Layers,
        accelerator: Accelerator,
        identity: Identity,
        contract: Contract,
        network: GuestNetwork,
    ) -> VmDescription:
        spec = self._plan.spec
        locks = (run.lock, image.lease_fd, *(() if identity.lock is None else (identity.lock,)))
        return VmDescription(
            name=run.record.id,
            arch=spec.arch,
            accelerator=accelerator,
            cores=spec.cpu_cores,
            ram=spec.memory,
            base_disk=layers.base,
            overlay=layers.top,
            boot=layers.boot,
            network=network.attached,
            credentials=contract.credentials,
            held=tuple(self._stack.enter_context(shared_lock(lock)) for lock in locks),
        )

    async def _supervise(
        self, run: RunDirectory, machine: VirtualMachine, registration: Registration, contract: Contract
    ) -> None:
        fail, post = self.driver.fail, self.driver.post
        # The console outlives the supervision: what the guest prints last is what explains its end.
        console = self._stack.enter_context(Ring(run.path / runs.CONSOLE))
        gauge = self._teller.gauge = Gauge(machine.pid, run.path / runs.DISK)
        self._teller.runner_log = self._stack.enter_context(Ring(run.path / runs.RUNNER))
        silent = asyncio.Event()
        hands = contract.hands(machine)

        async def look() -> Sight:
            sight = await registration.sight()
            contract.seen(sight)
            return sight

        sources = (
            read_console(machine, console.write, silent),
            contract.attend(hands),
            await_end(machine, post, silent, self._console),
            watch_vmm(machine, post, self._teller.trouble),
            gauge.watch(),
            watch_refusals(self._refusals, self._teller.refused),
            watch_github(look, hands.wake, self._plan.poll_seconds, post, self._teller.trouble, self._requests_made),
            in_daemon_thread(self._collect, name="gc"),
        )
        for source in sources:
            await self._stack.enter_async_context(background(source, fail))
        self.driver.launched(hands, contract.launched)

    def _requests_made(self) -> int:
        return self._means.github.requests_made

    async def _watch_image(self, image: LeasedImage) -> None:
        images = self._means.images

        async def newer() -> str | None:
            # The pull goes on in its thread when this run ends, until it looks at `cancelled`.
            return await in_daemon_thread(lambda: images.newer(image, self._is_over, self._accept), name="newer")

        await watch_image(
            newer, self._plan.image_poll_seconds, self.driver.post, self._teller.image_found, self._teller.trouble
        )

    def _is_over(self) -> bool:
        return self.driver.state.phase is Phase.DONE

    def _observe(self, before: State, event: Event, after: State) -> None:
        if after.abandoned:
            self._abandoned.set()
        self._teller.observe(before, event, after)

    def _collect(self) -> None:
        try:
            self._means.collect()
        except Exception as error:  # noqa: BLE001 other runs' remains are no reason to end this one
            self._tell("trouble", f"gc: {error}")

    async def _refusals(self) -> Refusals:
        return Refusals() if self._network is None else await self._network.refusals()

    async def look_back(self) -> None:
        """What can only be learnt as long as the run's things are there."""
        try:
            refusals = await self._refusals()
            self._teller.refused(refusals)
            if self._plan.learn is not None and self._network is not None:
                refused = [destination for destination, _ in refusals.destinations]
                reached = await self._network.asked_for()
                with lock(self._plan.runs.parent / _LEARNING):
                    learning.add(self._plan.learn, self._plan.spec.label, reached, refused)
        except (GhvmError, OSError) as error:
            self._teller.trouble(told(error))

    def _console(self) -> bytes:
        return b"" if self._run is None else tail(self._run.path / runs.CONSOLE, _CONSOLE_TAIL)

    def ended(self, outcome: Outcome, seconds: float) -> Ended:
        text = self._console().decode(errors="replace").replace("\r", "").strip()
        refusal = None if self._registration is None else self._registration.refusal
        self._teller.ended(refusal, int(outcome.exit_code))
        return Ended(self._id, outcome, seconds, self._teller.job_result, self._teller.cause, text, refusal)

    def failed(self, error: GhvmError) -> None:
        """An error ended the run."""
        self._teller.ended(error, int(error.exit_code))

    def _record(self) -> RunRecord:
        now = self._means.clock.wall()
        return RunRecord.of(
            id=self._id,
            boot_id=process.boot_id(),
            supervisor=ProcessRecord.of(pid=os.getpid(), started=process.start_time(os.getpid()) or 0),
            label=self._plan.spec.label,
            image=self._plan.spec.image,
            since=now,
            created=now,
            ssh_port=self._plan.ssh_port,
        )
