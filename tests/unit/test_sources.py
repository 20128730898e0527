"""Where events come from: the guest's console, and GitHub as it is polled."""

import asyncio
import errno
import socket
from collections.abc import Iterator

import pytest

from ghrunner_vm.errors import GhvmError
from ghrunner_vm.github.models import Presence, Sight
from ghrunner_vm.lifecycle import events as ev
from ghrunner_vm.lifecycle.events import Event
from ghrunner_vm.lifecycle.sources import read_console, watch_github
from ghrunner_vm.vm.base import VmEnd

SECONDS = 30


class Machine:
    """A machine of which only the console is there."""

    pid = 2
    started = 1

    def __init__(self, console: socket.socket) -> None:
        self.console = self.agent = console

    async def power_down(self) -> None:
        raise NotImplementedError

    def kill(self) -> None:
        raise NotImplementedError

    async def ended(self) -> VmEnd:
        raise NotImplementedError


def test_a_console_that_cannot_be_kept_is_read_all_the_same() -> None:
    kept: list[bytes] = []
    tried = asyncio.Event()

    def keep(data: bytes) -> None:
        if not tried.is_set():
            tried.set()
            raise OSError(errno.ENOSPC, "No space left on device")
        kept.append(data)

    async def work() -> None:
        ours, guests = socket.socketpair()
        with ours, guests:
            ours.setblocking(False)
            silent = asyncio.Event()
            reading = asyncio.create_task(read_console(Machine(ours), keep, silent))
            guests.sendall(b"lost")
            await tried.wait()
            guests.sendall(b"kept")
            guests.close()
            await reading
            assert silent.is_set()

    asyncio.run(asyncio.wait_for(work(), SECONDS))
    assert b"".join(kept) == b"kept"


def look_through(sights: Iterator[Sight | Exception]) -> tuple[list[Event], list[GhvmError]]:
    """What is told of these, one a poll, until they run out."""
    told: list[Event] = []
    troubles: list[GhvmError] = []

    async def work() -> None:
        over: asyncio.Future[Sight] = asyncio.get_running_loop().create_future()

        async def look() -> Sight:
            match next(sights, None):
                case None:
                    finished.set()
                    return await over
                case Exception() as error:
                    raise error
                case sight:
                    return sight

        finished = asyncio.Event()
        watching = asyncio.create_task(watch_github(look, asyncio.Event(), 0, told.append, troubles.append))
        waiting = asyncio.create_task(finished.wait())
        await asyncio.wait({watching, waiting}, timeout=SECONDS, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        assert finished.is_set(), "the watching ended too early"

    asyncio.run(work())
    return told, troubles


BUSY = Sight(Presence.ONLINE, busy=True)


@pytest.mark.parametrize("error", [GhvmError("no answer"), ValueError("odd"), OSError("no file")])
def test_a_poll_that_fails_is_told_and_the_next_one_comes(error: Exception) -> None:
    told, troubles = look_through(iter([error, BUSY]))
    assert told == [ev.GitHubSaysBusy()]
    assert [str(error) in trouble.brief for trouble in troubles] == [True]


def test_a_runner_that_is_gone_is_looked_for_again() -> None:
    told, troubles = look_through(iter([Sight(Presence.GONE, busy=False), BUSY]))
    assert told == [ev.GitHubSaysGone(), ev.GitHubSaysBusy()]
    assert troubles == []
