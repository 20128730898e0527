"""The URL that gives a registration once, over real connections."""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Coroutine

import pytest

from ghrunner_vm.guest.oneshot import OneShot, serve_once

SECRET = "s" * 4140
SECONDS = 30

Work = Callable[["Scene"], Coroutine[None, None, None]]


class Scene:
    """A served URL, what was refused, and how often the secret was asked for."""

    def __init__(self, fetch: Callable[[], Awaitable[str]] | None = None) -> None:
        self.refused: list[str] = []
        self.fetches = 0
        self.shot = OneShot(fetch or self._fetch, self.refused.append)
        self.port = 0

    @property
    def request(self) -> bytes:
        return f"GET /{self.shot.path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()

    async def send(self, request: bytes, *, eof: bool = False) -> tuple[str, str]:
        """Status line and body."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request)
        if eof:
            writer.write_eof()
        answer = ""
        with contextlib.suppress(ConnectionResetError):  # turned away before the request was read
            answer = (await reader.read()).decode()
        writer.close()
        head, _, body = answer.partition("\r\n\r\n")
        return head.split("\r\n")[0], body

    async def _fetch(self) -> str:
        self.fetches += 1
        return SECRET


def play(work: Work, scene: Scene | None = None) -> Scene:
    scene = scene or Scene()

    async def served() -> None:
        listening = socket.create_server(("127.0.0.1", 0))
        scene.port = listening.getsockname()[1]
        async with serve_once(scene.shot, listening):
            await work(scene)

    asyncio.run(asyncio.wait_for(served(), SECONDS))
    return scene


def test_the_first_fetch_gets_all_of_it_and_the_second_nothing() -> None:
    async def work(scene: Scene) -> None:
        assert await scene.send(scene.request) == ("HTTP/1.1 200 OK", SECRET + "\n")
        status, body = await scene.send(scene.request)
        assert (status, SECRET in body) == ("HTTP/1.1 400 Bad Request", False)

    scene = play(work)
    assert scene.fetches == 1
    assert scene.refused == ["the registration was fetched before"]


def test_of_two_at_once_one_gets_it() -> None:
    async def work(scene: Scene) -> None:
        answers = await asyncio.gather(scene.send(scene.request), scene.send(scene.request))
        assert sorted(status for status, _ in answers) == ["HTTP/1.1 200 OK", "HTTP/1.1 400 Bad Request"]

    assert play(work).fetches == 1


def test_a_wrong_token_gets_nothing_and_spoils_nothing() -> None:
    async def work(scene: Scene) -> None:
        assert (await scene.send(b"GET /guessed HTTP/1.1\r\n\r\n"))[0] == "HTTP/1.1 403 Forbidden"
        assert (await scene.send(scene.request))[0] == "HTTP/1.1 200 OK"

    assert play(work).refused == ["the token is wrong"]


def test_nothing_is_given_once_the_runner_is_online() -> None:
    async def work(scene: Scene) -> None:
        scene.shot.close()
        assert (await scene.send(scene.request))[0] == "HTTP/1.1 410 Gone"

    scene = play(work)
    assert scene.fetches == 0
    assert scene.refused == ["the runner is online already"]


def test_a_query_behind_the_token_is_ignored() -> None:
    async def work(scene: Scene) -> None:
        garbage = scene.request.replace(b" HTTP", b"?\xff\xfe HTTP")
        assert (await scene.send(garbage))[0] == "HTTP/1.1 200 OK"

    play(work)


@pytest.mark.parametrize(
    "request_", [b"POST / HTTP/1.1\r\n\r\n", b"\0\xff\r\n\r\n", b"GET /", b"GET /" + b"a" * 9000, b""], ids=len
)
def test_garbage_is_refused_and_told(request_: bytes) -> None:
    async def work(scene: Scene) -> None:
        assert (await scene.send(request_, eof=True))[0] == "HTTP/1.1 400 Bad Request"
        assert (await scene.send(scene.request))[0] == "HTTP/1.1 200 OK"

    assert len(play(work).refused) == 1


def test_a_flood_is_told_of_only_so_often() -> None:
    async def work(scene: Scene) -> None:
        for _ in range(30):
            await scene.send(b"GET /guessed HTTP/1.1\r\n\r\n")

    refused = play(work).refused
    assert len(refused) == 20
    assert refused[-1].endswith("no more of these are told")


async def crowd(scene: Scene, size: int) -> list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    return [await asyncio.open_connection("127.0.0.1", scene.port) for _ in range(size)]


def test_a_crowd_that_says_nothing_is_in_nobodys_way() -> None:
    """Each of them would be waited for ten seconds; any guest and any user of this host can connect."""

    async def work(scene: Scene) -> None:
        silent = await crowd(scene, 40)
        assert (await scene.send(scene.request))[0] == "HTTP/1.1 200 OK"
        oldest, _ = silent[0]
        assert b"cut off" in await oldest.read() or oldest.at_eof()
        for _, writer in silent:
            writer.close()

    play(work)


def test_those_who_ask_are_not_more_than_can_be_served() -> None:
    """A guest that asks for its own secret a hundred times takes no more of ghvm's descriptors than it may."""
    given = asyncio.Event()

    async def later() -> str:
        await given.wait()
        return SECRET

    async def work(scene: Scene) -> None:
        asking = [asyncio.ensure_future(scene.send(scene.request)) for _ in range(100)]
        turned_away = 0
        for done in asyncio.as_completed(asking):
            turned_away += (await done)[0] == ""
            if turned_away == 68:
                given.set()
        answers = [task.result()[0] for task in asking]
        assert answers.count("HTTP/1.1 200 OK") == 1
        assert answers.count("HTTP/1.1 400 Bad Request") == 31

    play(work, Scene(later))


def test_whoever_hangs_up_before_the_answer_may_ask_again() -> None:
    """GitHub may keep a registration waiting for longer than a client does."""
    asked, given = asyncio.Event(), asyncio.Event()

    async def later() -> str:
        asked.set()
        await given.wait()
        return SECRET

    async def work(scene: Scene) -> None:
        _, impatient = await asyncio.open_connection("127.0.0.1", scene.port)
        impatient.write(scene.request)
        await asked.wait()
        impatient.close()
        await impatient.wait_closed()
        assert (await scene.send(b"GET /guessed HTTP/1.1\r\n\r\n"))[0] == "HTTP/1.1 403 Forbidden"  # it is heard
        given.set()
        assert await scene.send(scene.request) == ("HTTP/1.1 200 OK", SECRET + "\n")
        assert (await scene.send(scene.request))[0] == "HTTP/1.1 400 Bad Request"

    assert "whoever asked has hung up before the answer" in play(work, Scene(later)).refused
