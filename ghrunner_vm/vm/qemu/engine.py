"""Launches QEMU and tells how it ended."""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from qemu.qmp import QMPClient, QMPError, Runstate

from ghrunner_vm import process, runs
from ghrunner_vm.connections import beside
from ghrunner_vm.errors import InfrastructureError
from ghrunner_vm.ring import Ring, last_words
from ghrunner_vm.vm import scope
from ghrunner_vm.vm.base import EndReason, UserNetwork, VirtualMachine, VmDescription, VmEnd
from ghrunner_vm.vm.cell.command import Cell, in_cell
from ghrunner_vm.vm.jail import Identity, confined
from ghrunner_vm.vm.limits import limits
from ghrunner_vm.vm.overlay import virtual_size
from ghrunner_vm.vm.pair import Pair, keep
from ghrunner_vm.vm.qemu.commandline import NETWORK, Firmware, Sockets, command_line, inherited
from ghrunner_vm.vm.qemu.complaints import not_started
from ghrunner_vm.vm.qemu.firmware import uefi

_GREETING_SECONDS = 20.0
_COMMAND_SECONDS = 5.0
_PORT_TRIES = 5
_LOG_LIMIT = 256 * 1024

_EVENTS = ("SHUTDOWN", "BLOCK_IO_ERROR")
_SHUTDOWN_REASONS = {
    "guest-shutdown": EndReason.POWERED_OFF,
    "guest-reset": EndReason.RESET,
    "host-signal": EndReason.KILLED,
    "host-qmp-quit": EndReason.KILLED,
}


class QemuEngine:
    """Engine for one QEMU binary and one user id."""

    def __init__(self, binary: str, identity: Identity) -> None:
        self._binary = binary
        self._identity = identity

    @contextlib.asynccontextmanager
    async def launch(self, description: VmDescription, directory: Path) -> AsyncIterator[VirtualMachine]:
        """See Engine.launch. QEMU's own messages go to a ring in `directory`."""
        log_file = directory / runs.VMM
        async with contextlib.AsyncExitStack() as stack:
            qmp, agent, console, words = (stack.enter_context(Pair()) for _ in range(4))
            sockets = Sockets(qmp.theirs.fileno(), agent.theirs.fileno(), console.theirs.fileno())
            # A guest can provoke messages without end.
            log = stack.enter_context(Ring(log_file, _LOG_LIMIT))
            firmware = stack.enter_context(_firmware(description))
            argv = self._walled_in(description, command_line(self._binary, description, sockets, firmware))
            inherit = inherited(description, sockets, firmware)
            child = stack.enter_context(process.start(argv, inherit=inherit, stderr=words.theirs.fileno()))
            for pair in (qmp, agent, console, words):
                pair.theirs.close()  # so that QEMU's end is the end of the stream
            await stack.enter_async_context(beside(keep(words.ours, log)))
            monitor = await stack.enter_async_context(_monitor(qmp.ours, child, log_file))
            yield _QemuMachine(child, monitor, agent.ours, console.ours, log_file)

    def _walled_in(self, vm: VmDescription, argv: Sequence[str]) -> Sequence[str]:
        devices = ["/dev/kvm"] if vm.accelerator == "kvm" else []
        most = limits(vm, 0 if vm.overlay is None else virtual_size(vm.overlay))
        # Only QEMU's own network stack makes connections; a tap device is in whatever namespace it was made.
        own_network = not isinstance(vm.network, UserNetwork)
        cell = Cell(devices, own_network, most.of_process(own_uid=self._identity.uid is not None))
        walled = in_cell(confined(argv, self._identity, devices), cell, self._binary)
        return scope.in_scope(walled, vm.name, most, user=os.geteuid() != 0) if scope.available() else walled


def _firmware(description: VmDescription) -> contextlib.AbstractContextManager[Firmware | None]:
    # On x86_64 QEMU brings its own BIOS, which boots disks; for aarch64 it brings nothing that does.
    if description.arch == "aarch64" and description.boot is None:
        return uefi(description.arch)
    return contextlib.nullcontext()


@contextlib.asynccontextmanager
async def _monitor(ours: socket.socket, child: process.Child, log_file: Path) -> AsyncIterator[QMPClient]:
    """A QMP session. Raises what `not_started` makes of it if QEMU ends or says nothing before its greeting."""
    # The library logs what it also raises; a QEMU that is killed would look like a fault of ours.
    logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)
    client = QMPClient("ghvm")
    try:
        async with asyncio.timeout(_GREETING_SECONDS):
            await client.connect(ours)
    except (QMPError, TimeoutError, OSError) as error:
        raise not_started(last_words(log_file), child.poll()) from error
    try:
        yield client
    finally:
        with contextlib.suppress(QMPError, EOFError, OSError):
            await client.disconnect()


class _QemuMachine:
    """VirtualMachine on a QEMU process."""

    def __init__(
        self, child: process.Child, qmp: QMPClient, agent: socket.socket, console: socket.socket, log_file: Path
    ) -> None:
        self._child = child
        self._qmp = qmp
        self.agent = agent
        self.console = console
        self._log_file = log_file
        self._reason: EndReason | None = None
        self._killed = False
        # Only what is listened for is kept: a guest can make QEMU send some kinds of events without end.
        qmp.events.names.update(_EVENTS)

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def started(self) -> int:
        return self._child.started

    async def power_down(self) -> None:
        with contextlib.suppress(QMPError, EOFError, OSError, TimeoutError):
            async with asyncio.timeout(_COMMAND_SECONDS):
                await self._qmp.execute("system_powerdown")

    has_ssh = False

    async def forward_ssh(self, _port: int = 0) -> int:
        refusal = ""
        for _ in range(_PORT_TRIES):
            port = free_port()
            line = f"hostfwd_add {NETWORK} tcp:127.0.0.1:{port}-:22"
            try:
                async with asyncio.timeout(_COMMAND_SECONDS):
                    refusal = str(await self._qmp.execute("human-monitor-command", {"command-line": line})).strip()
            except (QMPError, EOFError, OSError, TimeoutError) as error:
                raise InfrastructureError("QEMU does not answer", details=str(error)) from error
            if not refusal:
                return port
        raise InfrastructureError("QEMU could not open a port for SSH", details=refusal)

    async def answers(self) -> bool:
        try:
            async with asyncio.timeout(_COMMAND_SECONDS):
                await self._qmp.execute("query-status")
        except (QMPError, EOFError, OSError, TimeoutError):
            return False
        return True

    def kill(self) -> None:
        self._killed = True
        self._child.kill()

    async def ended(self) -> VmEnd:
        watching = asyncio.create_task(self._watch())
        try:
            code = await self._child.wait()
            # What QEMU said last may still be in the socket: the library has it all once it sees the end of the stream.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_COMMAND_SECONDS):
                    while self._qmp.runstate == Runstate.RUNNING:
                        await self._qmp.runstate_changed()
        finally:
            watching.cancel()
        for event in self._qmp.events.clear():
            self._notice(event)
        return self._end(code)

    async def _watch(self) -> None:
        async for event in self._qmp.events:
            self._notice(event)

    def _notice(self, event: Mapping[str, object]) -> None:
        data = event.get("data")
        facts = data if isinstance(data, dict) else {}
        match event.get("event"):
            case "SHUTDOWN":
                self._reason = self._reason or _SHUTDOWN_REASONS.get(str(facts.get("reason")))
            case "BLOCK_IO_ERROR" if facts.get("nospace"):
                # QEMU has stopped the guest and would wait for ever.
                self._reason = EndReason.DISK_FULL
                self._child.kill()

    def _end(self, code: int) -> VmEnd:
        if self._reason is not None:
            return VmEnd(self._reason)
        if self._killed:
            return VmEnd(EndReason.KILLED)
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return VmEnd(EndReason.CRASHED, f"{how}\n{last_words(self._log_file)}".strip())


def free_port() -> int:
    """A port of the loopback that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])
