"""Launches Firecracker in its jailer and tells how it ended."""

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from ghrunner_vm import process, runs
from ghrunner_vm.clock import SYSTEM
from ghrunner_vm.connections import beside
from ghrunner_vm.errors import GhvmError, InfrastructureError
from ghrunner_vm.ring import Ring, last_words
from ghrunner_vm.threads import in_daemon_thread
from ghrunner_vm.vm import scope
from ghrunner_vm.vm.base import EndReason, TapNetwork, VirtualMachine, VmDescription, VmEnd
from ghrunner_vm.vm.cell.command import Nest, in_nest
from ghrunner_vm.vm.firecracker import tap, vsock
from ghrunner_vm.vm.firecracker.api import Api
from ghrunner_vm.vm.firecracker.commandline import API, CONFIGURATION, Programs, command_line, jail
from ghrunner_vm.vm.firecracker.complaints import ended_by, not_started
from ghrunner_vm.vm.firecracker.configuration import BASE, INITRD, KERNEL, SCRATCH, VSOCK, configuration
from ghrunner_vm.vm.firecracker.room import until_full
from ghrunner_vm.vm.limits import limits
from ghrunner_vm.vm.pair import Pair, keep

_START_SECONDS = 60.0
_LOOK_SECONDS = 0.02
_LOG_BYTES = 8192
_LOG_LIMIT = 256 * 1024


class FirecrackerEngine:
    """Engine for one pair of programs and one user id, of a process that is root's."""

    def __init__(self, programs: Programs, uid: int) -> None:
        self._programs = programs
        self._uid = uid

    @contextlib.asynccontextmanager
    async def launch(self, description: VmDescription, directory: Path) -> AsyncIterator[VirtualMachine]:
        """See Engine.launch. What Firecracker and its jailer say themselves goes to a ring in `directory`."""
        log_file = directory / runs.VMM
        async with contextlib.AsyncExitStack() as stack:
            agent, console, words = (stack.enter_context(Pair()) for _ in range(3))
            log = stack.enter_context(Ring(log_file, _LOG_LIMIT))
            nest = stack.enter_context(self._nest(description, directory))
            jailer = command_line(self._programs, description, nest.at, self._uid)
            argv = in_nest(jailer, nest)
            if scope.available():
                argv = scope.in_scope(argv, description.name, limits(description, _size(description)), user=False)
            if isinstance(description.network, TapNetwork):
                tap.hand_over(description.network.device, self._uid)
            inherit = (*nest.read.values(), *nest.write.values(), *description.held)
            stdout, stderr = console.theirs.fileno(), words.theirs.fileno()
            child = stack.enter_context(process.start(argv, inherit=inherit, stderr=stderr, stdout=stdout))
            for pair in (console, words):
                pair.theirs.close()  # so that Firecracker's end is the end of the stream
            await stack.enter_async_context(beside(keep(words.ours, log)))
            pid = await _up(child, console.ours, log_file)
            agent.theirs.setblocking(False)
            guest = f"{_root(pid)}/{VSOCK}"
            await stack.enter_async_context(beside(vsock.carry(guest, vsock.AGENT_PORT, agent.theirs)))
            ports = await stack.enter_async_context(contextlib.AsyncExitStack())
            machine = _FirecrackerMachine(child, pid, agent.ours, console.ours, log_file, ports)
            await stack.enter_async_context(_ended_when_full(description.overlay, machine))
            yield machine

    @contextlib.contextmanager
    def _nest(self, vm: VmDescription, directory: Path) -> Iterator[Nest]:
        at = directory / "jail"
        at.mkdir(mode=0o700)
        written = directory / CONFIGURATION
        written.write_text(json.dumps(configuration(vm), indent=2), encoding="utf-8")
        written.chmod(0o444)
        if vm.overlay is not None:
            os.fchown(vm.overlay, self._uid, self._uid)
        assert vm.boot is not None  # noqa: S101 the configuration has asked for it
        initrd = {} if vm.boot.initrd is None else {INITRD: vm.boot.initrd}
        with written.open("rb") as opened:
            yield Nest(
                at=at,
                jail=jail(self._programs, at, vm.name),
                read={CONFIGURATION: opened.fileno(), BASE: vm.base_disk, KERNEL: vm.boot.kernel, **initrd},
                write={} if vm.overlay is None else {SCRATCH: vm.overlay},
                own_network=not isinstance(vm.network, TapNetwork),
                limits=limits(vm, _size(vm)).of_process(own_uid=True),
            )


def _size(vm: VmDescription) -> int:
    return 0 if vm.overlay is None else os.fstat(vm.overlay).st_size


def _root(pid: int) -> str:
    # A way into the jail that is short enough for a socket's path, and open to root alone.
    return f"/proc/{pid}/root"


async def _up(child: process.Child, console: socket.socket, log_file: Path) -> int:
    """The id of the Firecracker that runs the machine. Raises what `not_started` makes of its end or its silence."""
    deadline = SYSTEM.monotonic() + _START_SECONDS
    while (code := child.poll()) is None and SYSTEM.monotonic() < deadline:
        for pid in process.lowest(child.pid):
            try:
                if await in_daemon_thread(Api(f"{_root(pid)}/{API}").state, name="api") == "Running":
                    return pid
            except OSError:
                continue  # it is not there yet
            except InfrastructureError:
                break  # it has just ended
        await asyncio.sleep(_LOOK_SECONDS)
    raise not_started(f"{_unread(console)}\n{last_words(log_file)}".strip(), code)


def _unread(console: socket.socket) -> str:
    """Why a configuration is refused is told where the guest's console would be."""
    try:
        return console.recv(_LOG_BYTES).decode(errors="replace")
    except OSError:
        return ""


@contextlib.asynccontextmanager
async def _ended_when_full(scratch: int | None, machine: "_FirecrackerMachine") -> AsyncIterator[None]:
    """Beside the block: end a machine whose scratch disk cannot grow, before its job fails by no fault of its own."""

    async def watch(descriptor: int) -> None:
        await until_full(descriptor)
        machine.end_for(EndReason.DISK_FULL)

    async with contextlib.nullcontext() if scratch is None else beside(watch(scratch)):
        yield


class _FirecrackerMachine:
    """VirtualMachine on a Firecracker process."""

    def __init__(
        self,
        child: process.Child,
        pid: int,
        agent: socket.socket,
        console: socket.socket,
        log_file: Path,
        stack: contextlib.AsyncExitStack,
    ) -> None:
        self._child = child
        self.pid = pid
        self.started = process.start_time(pid) or 0
        self.agent = agent
        self.console = console
        self._log_file = log_file
        self._stack = stack
        self._reason: EndReason | None = None
        self._api = Api(f"{_root(pid)}/{API}")

    async def power_down(self) -> None:
        # Linux takes the keys for a wish to restart, which is what ends this machine. On aarch64 there are none.
        with contextlib.suppress(OSError, GhvmError):
            await in_daemon_thread(self._api.ctrl_alt_del, name="power-down")

    has_ssh = True

    async def forward_ssh(self, port: int = 0) -> int:
        return await self._stack.enter_async_context(
            vsock.forwarded(port, f"{_root(self.pid)}/{VSOCK}", vsock.SSH_PORT)
        )

    async def answers(self) -> bool:
        try:
            await in_daemon_thread(self._api.state, name="answers")
        except (OSError, GhvmError):
            return False
        return True

    def kill(self) -> None:
        self.end_for(EndReason.KILLED)

    def end_for(self, reason: EndReason) -> None:
        """End the VMM at once; the first reason counts."""
        self._reason = self._reason or reason
        self._child.kill()

    async def ended(self) -> VmEnd:
        code = await self._child.wait()
        if code == 0:
            return VmEnd(EndReason.LEFT)
        if self._reason is not None:
            return VmEnd(self._reason)
        return VmEnd(EndReason.CRASHED, f"{ended_by(code)}\n{last_words(self._log_file)}".strip())
