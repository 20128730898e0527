"""Where events come from: the guest's console, and GitHub as it is polled."""

import asyncio
import errno
import itertools
import socket
from collections.abc import Iterator, Sequence

import pytest

from ghrunner_vm.clock import Clock
from ghrunner_vm.config import Settings
from ghrunner_vm.errors import GhvmError
from ghrunner_vm.github.auth import AppAuth
from ghrunner_vm.github.client import GitHub
from ghrunner_vm.github.limits import RateLimited
from ghrunner_vm.github.models import Presence, Sight
from ghrunner_vm.github.scope import Scope
from ghrunner_vm.lifecycle import events as ev
from ghrunner_vm.lifecycle.events import Event
from ghrunner_vm.lifecycle.sources import read_console, watch_github, watch_vmm
from ghrunner_vm.simulator.server import Simulator
from ghrunner_vm.vm.base import VmEnd
from tests.virtual_time import run_virtual

SECONDS = 30


class Machine:
    """A machine of which only the console is there."""

    pid = 2
    started = 1

    def __init__(self, console: socket.socket) -> None:
        self.console = self.agent = console

    async def power_down(self) -> None:
        raise NotImplementedError

    has_ssh = False

    async def forward_ssh(self, _port: int = 0) -> int:
        raise NotImplementedError

    async def answers(self) -> bool:
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
        watching = asyncio.create_task(watch_github(look, asyncio.Event(), 0, told.append, troubles.append, int))
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


def when_looked(looks: Sequence[tuple[int, Exception | None]], *, woken: bool = False) -> list[float]:
    """The minutes at which GitHub is asked, an interval of one apart; each look costs requests and may fail."""
    minutes: list[float] = []
    requests = 0

    async def work() -> None:
        over, wake = asyncio.Event(), asyncio.Event()

        async def look() -> Sight:
            nonlocal requests
            minutes.append(asyncio.get_running_loop().time() / 60)
            cost, error = looks[len(minutes) - 1]
            requests += cost
            if len(minutes) == len(looks):
                over.set()
            elif woken:
                wake.set()
            if error is not None:
                raise error
            return BUSY

        watching = watch_github(look, wake, 60, lambda _: None, lambda _: None, lambda: requests)
        task = asyncio.create_task(watching)
        await over.wait()
        task.cancel()

    run_virtual(work())
    return minutes


def test_a_look_that_costs_several_requests_is_followed_by_as_many_intervals() -> None:
    looks = [(0, None), (1, None), (3, None), (4, GhvmError("no answer")), (0, None)]
    assert when_looked(looks) == [1, 2, 3, 6, 10]


def test_waking_makes_a_look_come_earlier_but_not_within_a_rate_limit() -> None:
    looks = [(1, None), (1, RateLimited(600)), (1, None)]
    assert when_looked(looks, woken=True) == [1, 1, 11]


@pytest.mark.parametrize("service", ["quiet", "changing", "gone"])
def test_an_hour_costs_at_most_sixty_requests(service: str) -> None:
    """Token renewals included, whether nothing changes (304, free), all changes, or each look takes two calls."""
    counted: list[int] = []

    async def work() -> None:
        loop = asyncio.get_running_loop()
        clock = Clock(wall=lambda: 1_800_000_000 + loop.time(), monotonic=loop.time)
        with Simulator(clock=clock) as simulator:
            auth = AppAuth(simulator.client_id, simulator.private_key_pem.encode())
            github = GitHub(simulator.url, Scope.parse("org:demo-org"), auth, clock=clock)
            made = github.generate_jitconfig("one", group_id=1, labels=["demo"])
            (runner,) = simulator.state.runners()
            online = itertools.cycle([True, False])
            if service == "gone":
                simulator.state.drop(runner.id)

            async def look() -> Sight:
                if service == "changing" and next(online):
                    simulator.state.open_session(runner.bearer, "2.337.0")
                elif service == "changing":
                    simulator.state.disconnect(runner.id)
                return github.sight(made.runner_id, made.name)

            watching = watch_github(
                look, asyncio.Event(), Settings().poll_seconds, lambda _: None, print, lambda: github.requests_made
            )
            task = asyncio.create_task(watching)
            for _ in range(5):
                before = github.requests_made
                await asyncio.sleep(3600)
                counted.append(github.requests_made - before)
            task.cancel()

    run_virtual(work())
    assert 2 <= max(counted) <= 60
    assert (max(counted) <= 5) is (service == "quiet")


class Answering(Machine):
    """A machine whose monitor answers as it is told, and then always does."""

    def __init__(self, *answers: bool) -> None:
        self._answers = iter(answers)

    async def answers(self) -> bool:
        return next(self._answers, True)


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        ([False] * 3, 0),
        ([False] * 3 + [True] + [False] * 3, 0),
        ([False] * 4, 1),
        ([False] * 9, 2),
    ],
)
def test_a_monitor_that_does_not_answer_is_told_of_after_two_minutes(answers: list[bool], told: int) -> None:
    posted: list[Event] = []
    troubles: list[GhvmError] = []

    async def work() -> None:
        watching = asyncio.create_task(watch_vmm(Answering(*answers), posted.append, troubles.append))
        await asyncio.sleep(3600)
        watching.cancel()

    run_virtual(work())
    assert posted == [ev.VmmSilent()] * told
    assert len(troubles) == told
