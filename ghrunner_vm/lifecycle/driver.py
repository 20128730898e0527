"""Carries out what the machine decides: one queue in, one place that handles it."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Protocol

from ghrunner_vm.lifecycle import events as ev
from ghrunner_vm.lifecycle.events import Effect, Event, Timer
from ghrunner_vm.lifecycle.machine import step
from ghrunner_vm.lifecycle.state import Phase, Policy, State

_LATE_SECONDS = 5.0
_WAKING_SECONDS = 5.0

Observer = Callable[[State, Event, State], None]


class Hands(Protocol):
    """What the driver can do to the world. Each call has a deadline of its own and never raises."""

    async def mint(self) -> Event:
        """Minted or MintFailed."""
        ...

    async def send_start(self) -> None:
        """Hand the registration to the guest."""
        ...

    async def deregister(self) -> Event:
        """Deregistered, DeregisterRefused or DeregisterFailed."""
        ...

    async def power_down(self) -> None:
        """Ask the guest to power off."""
        ...

    def look(self) -> None:
        """Have GitHub asked soon."""
        ...

    def kill(self) -> None:
        """End the virtual machine."""
        ...


class Driver:
    """Runs the machine on the event loop. Everything that happens comes in through `post`."""

    def __init__(self, policy: Policy, observe: Observer) -> None:
        self.state = State()
        self._policy = policy
        self._observe = observe
        self._queue: asyncio.Queue[Event | BaseException] = asyncio.Queue()
        self._timers: dict[Timer, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._hands: Hands | None = None

    def post(self, event: Event) -> None:
        """Let the machine know. May be called from the event loop's callbacks only."""
        self._queue.put_nowait(event)

    def fail(self, error: BaseException) -> None:
        """End `run` with this error: the preparation failed, or a part of the supervision did."""
        self._queue.put_nowait(error)

    def launched(self, hands: Hands, launched: ev.Launched = ev.Launched()) -> None:  # noqa: B008 frozen
        """The machine runs: from now on there is something to act on."""
        self._hands = hands
        self.post(launched)

    async def run(self) -> State:
        """Until the end of the run. Raises what `fail` was given."""
        try:
            while self.state.phase is not Phase.DONE:
                event = await self._queue.get()
                if isinstance(event, BaseException):
                    raise event
                self._take(event)
        finally:
            await self._rest()
        return self.state

    def _take(self, event: Event) -> None:
        before = self.state
        self.state, effects = step(before, event, self._policy)
        self._observe(before, event, self.state)
        for effect in effects:
            self._carry_out(effect)

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case ev.Arm(timer, seconds):
                self._arm(timer, seconds)
            case ev.Disarm(timer):
                self._disarm(timer)
            case _ if self._hands is not None:
                self._act(effect, self._hands)

    def _act(self, effect: Effect, hands: Hands) -> None:
        match effect:
            case ev.Mint():
                self._start(self._answer(hands.mint()))
            case ev.Deregister():
                self._start(self._answer(hands.deregister()))
            case ev.SendStart():
                self._start(hands.send_start())
            case ev.PowerDown():
                self._start(hands.power_down())
            case ev.Look():
                hands.look()
            case ev.Kill():
                hands.kill()

    def _disarm(self, timer: Timer) -> None:
        # It is missing when it has fired and the event still waits in the queue.
        if (handle := self._timers.pop(timer, None)) is not None:
            handle.cancel()

    def _arm(self, timer: Timer, seconds: float) -> None:
        self._disarm(timer)
        loop = asyncio.get_running_loop()
        due = loop.time() + seconds
        self._timers[timer] = loop.call_at(due, self._fire, timer, due)

    def _fire(self, timer: Timer, due: float) -> None:
        del self._timers[timer]
        if asyncio.get_running_loop().time() - due > _LATE_SECONDS:
            # This process was stopped for a while: what came in meanwhile is heard first.
            self._arm(timer, _WAKING_SECONDS)
        else:
            self.post(ev.Fired(timer))

    async def _answer(self, asked: Coroutine[None, None, Event]) -> None:
        self.post(await asked)

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(error)

    async def _rest(self) -> None:
        for handle in self._timers.values():
            handle.cancel()
        self._timers.clear()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        # One that fails meanwhile must not hide why the run ends, nor keep the others.
        await asyncio.gather(*tasks, return_exceptions=True)
