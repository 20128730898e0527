"""What an image without an agent is given, against the embedded GitHub; no machine."""

import asyncio
import os
import re
from pathlib import Path

import pytest

from ghrunner_vm.errors import PermanentError
from ghrunner_vm.github.models import Presence, Sight
from ghrunner_vm.lifecycle import events as ev
from ghrunner_vm.lifecycle.events import Event
from ghrunner_vm.lifecycle.network import Open
from ghrunner_vm.lifecycle.plain import Credential, PlainHands, PlainImage
from ghrunner_vm.simulator.faults import Rule
from ghrunner_vm.vm.base import UserNetwork
from tests.unit.test_registration import MINT, Scene
from tests.unit.test_registration import scene as registered  # noqa: F401 a fixture

SECONDS = 30


class Guest:
    """A plain image around a registration that a test can look at."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.posted: list[Event] = []
        self.news = asyncio.Event()
        self.refused: list[str] = []
        self.image = PlainImage(scene.registration, Open(UserNetwork()), self._post, self.refused.append)

    def _post(self, event: Event) -> None:
        self.posted.append(event)
        self.news.set()

    def credential(self, name: str) -> str:
        """As QEMU reads it: from the start of the file."""
        return Path(f"/proc/self/fd/{self.image.credentials[name]}").read_text(encoding="ascii")

    async def fetch(self) -> bytes:
        """What the guest's curl gets, with its headers."""
        url = re.fullmatch(r"http://10\.0\.2\.2:(\d+)(/[A-Za-z0-9_-]{64})", self.credential("gha-jitconfig-url"))
        assert url is not None
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url[1]))
        writer.write(f"GET {url[2]} HTTP/1.1\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        return answer


@pytest.fixture
def guest(registered: Scene) -> Guest:  # noqa: F811
    return Guest(registered)


@pytest.mark.parametrize(
    ("credential", "names"),
    [
        ("direct", {"gha-jitconfig"}),
        ("url", {"gha-jitconfig-url"}),
        ("both", {"gha-jitconfig", "gha-jitconfig-url"}),
    ],
)
@pytest.mark.parametrize("keep_running", [False, True])
def test_the_credentials(guest: Guest, credential: Credential, names: set[str], keep_running: bool) -> None:
    async def work() -> None:
        async with guest.image.offered(credential, keep_running=keep_running):
            assert set(guest.image.credentials) == names | ({"gha-inhibit-shutdown"} if keep_running else set())
            assert guest.image.launched == ev.Launched(registered=credential != "url", silent=True)
            assert bool(guest.scene.names) == (credential != "url"), "registered too early or too late"
            if "gha-jitconfig" in names:
                assert guest.credential("gha-jitconfig") == guest.scene.registration.secret()
            held.extend(guest.image.credentials.values())

    held: list[int] = []
    asyncio.run(asyncio.wait_for(work(), SECONDS))
    for descriptor in held:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


def test_the_url_registers_at_the_fetch(guest: Guest) -> None:
    async def work() -> None:
        async with guest.image.offered("url", keep_running=False):
            fetching = asyncio.create_task(guest.fetch())
            await guest.news.wait()
            assert guest.posted == [ev.AgentReady()]
            assert guest.scene.names == []
            assert await guest.scene.registration.mint() == ev.Minted()
            await PlainHands(None, guest.scene.registration, guest.image._given).send_start()  # type: ignore[arg-type]
            answer = await fetching
            assert answer.endswith(b"\r\n\r\n" + guest.scene.registration.secret().encode() + b"\n")

    asyncio.run(asyncio.wait_for(work(), SECONDS))


def test_a_runner_that_is_online_closes_the_url(guest: Guest) -> None:
    async def work() -> None:
        async with guest.image.offered("both", keep_running=False):
            guest.image.seen(Sight(Presence.OFFLINE, busy=False))
            assert guest.posted == []
            for _ in range(2):
                guest.image.seen(Sight(Presence.ONLINE, busy=False))
            assert guest.posted == [ev.ListenerStarted()]
            assert (await guest.fetch()).startswith(b"HTTP/1.1 410 ")
            assert guest.refused == ["the runner is online already"]

    asyncio.run(asyncio.wait_for(work(), SECONDS))


def test_a_refused_registration_ends_the_preparation_with_githubs_reason(guest: Guest) -> None:
    guest.scene.simulator.faults.add(Rule(method="POST", path=MINT, status=403, body='{"message": "no"}'))

    async def work() -> None:
        async with guest.image.offered("direct", keep_running=False):
            raise AssertionError

    with pytest.raises(PermanentError, match="forbids"):
        asyncio.run(asyncio.wait_for(work(), SECONDS))
