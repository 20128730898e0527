"""Images with an agent: they take the registration over the guest channel, and tell of their job there."""

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ghrunner_vm.clock import Clock
from ghrunner_vm.github.models import Sight
from ghrunner_vm.guest.channel import GuestChannel
from ghrunner_vm.guest.messages import POWER_OFF, GuestMessage, Start
from ghrunner_vm.lifecycle import events as ev
from ghrunner_vm.lifecycle.events import Event
from ghrunner_vm.lifecycle.hands import CommonHands
from ghrunner_vm.lifecycle.registration import Registration
from ghrunner_vm.lifecycle.sources import from_guest
from ghrunner_vm.lifecycle.ssh import RunKey
from ghrunner_vm.vm.base import VirtualMachine


@dataclass(frozen=True)
class Handover:
    """What goes to the agent with the registration."""

    clock: Clock
    keep_running: bool
    key: RunKey
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
            authorized_keys=self.key.public,
        ).encode()


class AgentImage:
    """Implements image.Contract."""

    credentials: Mapping[str, int] = {}
    launched = ev.Launched()

    def __init__(
        self,
        registration: Registration,
        handover: Handover,
        post: Callable[[Event], None],
        heard: Callable[[GuestMessage], None],
        closed: Callable[[str], None],
    ) -> None:
        """`heard` gets every message of the guest; `closed` why the guest is not listened to any more."""
        self._registration = registration
        self._handover = handover
        self._post = post
        self._heard = heard
        self._closed = closed
        self._channel: GuestChannel | None = None

    def hands(self, machine: VirtualMachine) -> "AgentHands":
        """See Contract."""
        self._channel = GuestChannel(machine.agent)
        return AgentHands(machine, self._registration, self._channel, self._handover)

    async def attend(self, hands: CommonHands) -> None:  # noqa: ARG002 the interface of Contract
        """See Contract."""
        assert self._channel is not None  # noqa: S101 made with the hands
        await self._handover.key.make()  # while the guest boots
        if why := await self._channel.listen(self._hear):
            self._closed(why)
            self._post(ev.GuestFellSilent())
            await self._channel.discard()

    def seen(self, sight: Sight) -> None:
        """See Contract: the agent tells by itself."""

    def _hear(self, message: GuestMessage) -> None:
        self._heard(message)
        if event := from_guest(message):
            self._post(event)


class AgentHands(CommonHands):
    """Implements driver.Hands: the agent takes the registration, and the power-off, over the guest channel."""

    def __init__(
        self, machine: VirtualMachine, registration: Registration, channel: GuestChannel, handover: Handover
    ) -> None:
        super().__init__(machine, registration)
        self._channel = channel
        self._handover = handover

    async def send_start(self) -> None:
        """See driver.Hands."""
        await self._channel.send(self._handover.message(self._registration))

    async def power_down(self) -> None:
        """See driver.Hands."""
        await asyncio.gather(self._channel.send(POWER_OFF), super().power_down())
