"""Images without an agent: their registration travels as systemd credentials (docs/guest-contract.md).

`gha-jitconfig` is the registration itself, `gha-jitconfig-url` a URL that gives it once, `gha-inhibit-shutdown` asks
the image not to power off after its job. What happens inside only GitHub tells.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Literal

from ghrunner_vm.errors import GhvmError
from ghrunner_vm.github.models import Presence, Sight
from ghrunner_vm.guest.oneshot import OneShot, serve_once
from ghrunner_vm.lifecycle import events as ev
from ghrunner_vm.lifecycle.events import Event
from ghrunner_vm.lifecycle.hands import CommonHands
from ghrunner_vm.lifecycle.network import GuestNetwork
from ghrunner_vm.lifecycle.registration import Registration
from ghrunner_vm.vm.base import VirtualMachine

JITCONFIG = "gha-jitconfig"
URL = "gha-jitconfig-url"
INHIBIT_SHUTDOWN = "gha-inhibit-shutdown"

_UNTIL_ONLINE_SECONDS = 15.0

Credential = Literal["url", "direct", "both"]


class PlainImage:
    """Implements contract.Contract."""

    def __init__(
        self,
        registration: Registration,
        network: GuestNetwork,
        post: Callable[[Event], None],
        refused: Callable[[str], None],
    ) -> None:
        self.credentials: dict[str, int] = {}
        self._registration = registration
        self._network = network
        self._post = post
        self._wanted = asyncio.Event()
        self._given = asyncio.Event()
        self._online = asyncio.Event()
        self._url = OneShot(self._fetch, refused)

    @property
    def launched(self) -> ev.Launched:
        """See Contract."""
        return ev.Launched(registered=self._registration.config is not None, silent=True)

    @contextlib.asynccontextmanager
    async def offered(self, credential: Credential, *, keep_running: bool) -> AsyncIterator[None]:
        """Make the credentials. Unless the guest only wants the URL, the registration is made now.

        Raises what GitHub said when it did not make one.
        """
        async with contextlib.AsyncExitStack() as stack:
            values = {INHIBIT_SHUTDOWN: "1"} if keep_running else {}
            if credential != "url":
                values[JITCONFIG] = await self._mint()
                self._given.set()
            if credential != "direct":
                listening, place = self._network.oneshot()
                await stack.enter_async_context(serve_once(self._url, listening))
                values[URL] = f"http://{place}/{self._url.path}"
            self.credentials = {name: stack.enter_context(_in_memory(name, value)) for name, value in values.items()}
            yield

    def hands(self, machine: VirtualMachine) -> "PlainHands":
        """See Contract."""
        return PlainHands(machine, self._registration, self._given)

    async def attend(self, hands: CommonHands) -> None:
        """See Contract: GitHub is asked more often until the runner is online."""
        while not self._online.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_UNTIL_ONLINE_SECONDS):
                    await self._online.wait()
            hands.look()

    def seen(self, sight: Sight) -> None:
        """See Contract: a runner that is online has its registration, so the URL is closed."""
        if sight.presence is Presence.ONLINE and not self._online.is_set():
            self._online.set()
            self._url.close()
            self._post(ev.ListenerStarted())

    async def _mint(self) -> str:
        event = await self._registration.mint()
        if isinstance(event, ev.MintFailed):
            raise self._registration.refusal or GhvmError(event.why)
        return self._registration.secret()

    async def _fetch(self) -> str:
        # A guest that asks is up. With a registration of its own from the start the machine lets this pass.
        self._post(ev.AgentReady())
        await self._given.wait()
        return self._registration.secret()


class PlainHands(CommonHands):
    """Implements driver.Hands: the guest finds its registration by itself, or fetches it."""

    def __init__(self, machine: VirtualMachine, registration: Registration, given: asyncio.Event) -> None:
        super().__init__(machine, registration)
        self._given = given

    async def send_start(self) -> None:
        """See driver.Hands: the fetch that waits is answered."""
        self._given.set()


@contextlib.contextmanager
def _in_memory(name: str, value: str) -> Iterator[int]:
    # No file system ever sees it; the VMM reads it through its inherited descriptor.
    descriptor = os.memfd_create(name)
    try:
        os.write(descriptor, value.encode())
        yield descriptor
    finally:
        os.close(descriptor)
