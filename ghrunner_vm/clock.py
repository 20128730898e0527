"""The one place that reads a clock, so that a test can hand out its own."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime


@dataclass(frozen=True)
class Clock:
    """`wall` is seconds since 1970 (may jump); `monotonic` never goes back; `sleep` blocks the calling thread."""

    wall: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep  # noqa: TID251 the one place

    def today(self) -> date:
        """The day that it is, in UTC."""
        return datetime.fromtimestamp(self.wall(), UTC).date()


SYSTEM = Clock()
