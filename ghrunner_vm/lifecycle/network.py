"""How a run's guest is connected: behind a wall of its own, by QEMU's user network, or not at all."""

import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from ghrunner_vm.connections import listen
from ghrunner_vm.errors import InfrastructureError, PermanentError
from ghrunner_vm.network import addresses
from ghrunner_vm.network.wall import Building, Refusals, Wall, wall
from ghrunner_vm.threads import in_daemon_thread
from ghrunner_vm.vm.base import Network, TapNetwork, UserNetwork, VirtualMachine


class GuestNetwork(Protocol):
    """One kind of network."""

    @property
    def attached(self) -> Network | None:
        """What the machine is launched with."""
        ...

    def oneshot(self) -> tuple[socket.socket, str]:
        """A socket that listens to the guest, and its place (HOST:PORT) as the guest finds it."""
        ...

    async def forward_ssh(self, machine: VirtualMachine) -> int:
        """Open a port of the host's loopback that leads to the guest's SSH. Raises InfrastructureError."""
        ...

    async def refusals(self) -> Refusals:
        """What has been kept from the guest so far."""
        ...

    async def asked_for(self) -> list[str]:
        """The entries of a list that would let pass all that did pass so far."""
        ...


Connect = Callable[[Callable[[str], None]], AbstractAsyncContextManager[GuestNetwork]]
"""Makes a guest's network for a block; its argument hears of troubles with it."""


@contextlib.asynccontextmanager
async def walled(
    building: Building, ssh_port: int | None, trouble: Callable[[str], None]
) -> AsyncIterator[GuestNetwork]:
    """A namespace of the run's own. Raises as `wall` does."""
    async with contextlib.AsyncExitStack() as stack:
        try:
            standing = await stack.enter_async_context(wall(building, trouble))
        except PermanentError as error:
            raise _or_open(error) if building.unprivileged else error from None
        if ssh_port is not None:
            await standing.forward_ssh(ssh_port)
        yield Walled(standing)


def _or_open(error: PermanentError) -> PermanentError:
    instead = "Or pass --allow-host-loopback: without a wall the guest reaches whatever this host reaches."
    return PermanentError(error.brief, details=error.details, resolution=f"{error.resolution or ''} {instead}".strip())


class Walled:
    """Implements GuestNetwork."""

    def __init__(self, standing: Wall) -> None:
        self._wall = standing
        self.attached = TapNetwork(standing.tap, addresses.MAC, standing.mtu, standing.tap_name, standing.pid)

    def oneshot(self) -> tuple[socket.socket, str]:
        return self._wall.oneshot()

    async def forward_ssh(self, _machine: VirtualMachine) -> int:
        return await self._wall.forward_ssh()

    async def refusals(self) -> Refusals:
        return await in_daemon_thread(self._wall.refusals, name="refusals")

    async def asked_for(self) -> list[str]:
        return await in_daemon_thread(self._wall.asked_for, name="asked-for")


@contextlib.asynccontextmanager
async def walled_or_open(
    building: Building, ssh_port: int | None, trouble: Callable[[str], None]
) -> AsyncIterator[GuestNetwork]:
    """The same, or QEMU's user network where none can be had: from there the guest reaches whatever this host does."""
    async with contextlib.AsyncExitStack() as stack:
        network: GuestNetwork
        try:
            network = await stack.enter_async_context(walled(building, ssh_port, trouble))
        except PermanentError as error:
            trouble(f"no wall around the guest's network, so it reaches all that this host does: {error.brief}")
            network = Open(UserNetwork(ssh_port))
        yield network


class Open:
    """Implements GuestNetwork."""

    def __init__(self, attached: UserNetwork) -> None:
        self.attached = attached

    def oneshot(self) -> tuple[socket.socket, str]:
        listening = listen()
        return listening, f"{addresses.GATEWAY}:{listening.getsockname()[1]}"

    async def forward_ssh(self, machine: VirtualMachine) -> int:
        return await machine.forward_ssh()

    async def refusals(self) -> Refusals:
        return Refusals()

    async def asked_for(self) -> list[str]:
        return []


@contextlib.asynccontextmanager
async def unplugged(_trouble: Callable[[str], None]) -> AsyncIterator[GuestNetwork]:
    """No network at all."""
    yield Unplugged()


class Unplugged:
    """Implements GuestNetwork."""

    attached = None

    def oneshot(self) -> tuple[socket.socket, str]:
        raise PermanentError(
            "The image fetches its registration, and its machine has no network",
            resolution='Set "credential": "direct" in the spec, or another --network.',
        )

    async def forward_ssh(self, _machine: VirtualMachine) -> int:
        raise InfrastructureError("The machine has no network", resolution="See `ghvm logs` for its console.")

    async def refusals(self) -> Refusals:
        return Refusals()

    async def asked_for(self) -> list[str]:
        return []
