"""An event loop whose time passes only when nothing else can happen: hours of timers in a millisecond."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import TypeVar

T = TypeVar("T")


class Deadlock(Exception):
    """Nothing is ready, no timer runs: the loop would wait for ever."""


class _JumpingSelector(selectors.DefaultSelector):
    """Never waits. Where a real one would, `now` jumps by as much."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready:
            return ready
        if timeout is None:
            raise Deadlock
        self.now += max(timeout, 0)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """`time()` is 0 at first and jumps from timer to timer. Threads and real processes do not fit into it."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now

    def jump(self, seconds: float) -> None:
        """Let time pass all at once, as for a process that was stopped."""
        self._jumping.now += seconds

    def timers(self) -> int:
        """How many timers still run."""
        # asyncio keeps its heap of timers to itself and has no other word on it.
        return sum(not handle.cancelled() for handle in self._scheduled)  # type: ignore[attr-defined]


def run_virtual(work: Coroutine[None, None, T]) -> T:
    """The result of `work` on a loop with virtual time. Raises Deadlock if it waits for what cannot come."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)
