"""What the driver does to the world, whatever the image."""

import asyncio
from abc import ABC, abstractmethod

from ghrunner_vm.lifecycle.events import Event
from ghrunner_vm.lifecycle.registration import Registration
from ghrunner_vm.vm.base import VirtualMachine


class CommonHands(ABC):
    """The part of driver.Hands that no image changes; the kinds of images add how they are started and stopped."""

    def __init__(self, machine: VirtualMachine, registration: Registration) -> None:
        self._machine = machine
        self._registration = registration
        self.wake = asyncio.Event()
        """Set when GitHub is to be asked soon."""

    async def mint(self) -> Event:
        """See driver.Hands."""
        return await self._registration.mint()

    @abstractmethod
    async def send_start(self) -> None:
        """See driver.Hands."""

    async def deregister(self) -> Event:
        """See driver.Hands."""
        return await self._registration.deregister()

    async def power_down(self) -> None:
        """See driver.Hands."""
        await self._machine.power_down()

    def look(self) -> None:
        """See driver.Hands."""
        self.wake.set()

    def kill(self) -> None:
        """See driver.Hands."""
        self._machine.kill()
