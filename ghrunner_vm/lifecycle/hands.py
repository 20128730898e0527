"""What the driver does to the world, for an image with an agent."""

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from ghrunner_vm.clock import Clock
from ghrunner_vm.guest.channel import GuestChannel
from ghrunner_vm.guest.messages import POWER_OFF, Start
from ghrunner_vm.lifecycle.events import Event
from ghrunner_vm.lifecycle.registration import Registration
from ghrunner_vm.vm.base import VirtualMachine


@dataclass(frozen=True)
class Handover:
    """What goes to the agent with the registration."""

    clock: Clock
    keep_running: bool
    environment: Mapping[str, str] = field(default_factory=dict)

    def message(self, registration: Registration) -> bytes:
        """The `start` message, with the time and the entropy of this moment."""
        return Start(
            jitconfig=registration.secret(),
            time=int(self.clock.wall()),
            entropy=os.urandom(64),
            hostname=registration.name,
            environment=self.environment,
            keep_running=self.keep_running,
        ).encode()


class AgentHands:
    """Implements driver.Hands: the agent takes the registration, and the power-off, over the guest channel."""

    def __init__(
        self, machine: VirtualMachine, channel: GuestChannel, registration: Registration, handover: Handover
    ) -> None:
        self._machine = machine
        self._channel = channel
        self._registration = registration
        self._handover = handover
        self.wake = asyncio.Event()
        """Set when GitHub is to be asked soon."""

    async def mint(self) -> Event:
        """See driver.Hands."""
        return await self._registration.mint()

    async def send_start(self) -> None:
        """See driver.Hands."""
        await self._channel.send(self._handover.message(self._registration))

    async def deregister(self) -> Event:
        """See driver.Hands."""
        return await self._registration.deregister()

    async def power_down(self) -> None:
        """See driver.Hands."""
        await asyncio.gather(self._channel.send(POWER_OFF), self._machine.power_down())

    def look(self) -> None:
        """See driver.Hands."""
        self.wake.set()

    def kill(self) -> None:
        """See driver.Hands."""
        self._machine.kill()
