"""GitHub's rate limits: what is left of them, and how long to be silent when there is nothing left."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ghrunner_vm.clock import SYSTEM, Clock
from ghrunner_vm.errors import InfrastructureError
from ghrunner_vm.units import format_seconds

_SECONDARY_SECONDS = 60
_MOST_DOUBLINGS = 4
_LONGEST_SECONDS = 24 * 3600


class RateLimited(InfrastructureError):
    """GitHub wants silence for `retry_after` seconds; calling earlier may get the App banned."""

    def __init__(self, retry_after: float, *, details: str | None = None) -> None:
        super().__init__(
            f"GitHub's rate limit is reached; the next call may be made in {retry_after:.0f} s",
            details=details,
            resolution="Wait, or run fewer runners on one App or token: all of them share its limit.",
        )
        self.retry_after = retry_after


@dataclass(frozen=True)
class Budget:
    """What the last answer said of its limit. `resets_at` is seconds since 1970 on GitHub's clock."""

    resource: str
    limit: int
    remaining: int
    resets_at: int

    @property
    def scarce(self) -> bool:
        """Whether less than a tenth is left."""
        return self.remaining * 10 < self.limit


class Allowance:
    """What one client may still ask: counts requests, and keeps the silence that GitHub wants.

    `warn` hears once in each window of a limit that less than a tenth of it is left. Safe to use from several threads.
    """

    def __init__(self, clock: Clock = SYSTEM, warn: Callable[[str], None] | None = None) -> None:
        self.requests_made = 0
        """How many requests GitHub has counted: all that it answered but for 304."""
        self.budget: Budget | None = None
        self._clock = clock
        self._warn = warn
        self._lock = threading.Lock()
        self._silent_until = clock.monotonic()
        self._refusals = 0
        self._warned_of: int | None = None

    def check(self) -> None:
        """Raises RateLimited while GitHub wants silence."""
        with self._lock:
            left = self._silent_until - self._clock.monotonic()
        if left > 0:
            raise RateLimited(left)

    def note(self, status: int, headers: Mapping[str, str], message: str, now: float) -> float | None:
        """Count an answer; the seconds of silence that it asks for, if any. `now` is GitHub's clock."""
        with self._lock:
            if status != 304:
                self.requests_made += 1
            self.budget = budget(headers) or self.budget
            wait = wait_seconds(status, headers, message, now, self._refusals)
            if wait is not None:
                self._refusals += 1
                self._silent_until = max(self._silent_until, self._clock.monotonic() + wait)
            elif status < 500:
                self._refusals = 0
        self._warn_if_scarce(now)
        return wait

    def _warn_if_scarce(self, now: float) -> None:
        with self._lock:
            left = self.budget
            if left is None or not left.scarce or left.resets_at == self._warned_of or self._warn is None:
                return
            self._warned_of = left.resets_at
        self._warn(
            f"less than a tenth of GitHub's rate limit is left: {left.remaining} of {left.limit} requests for the next "
            f"{format_seconds(_bounded(left.resets_at - now))}; all that use this App or token share them"
        )


def budget(headers: Mapping[str, str]) -> Budget | None:
    """The budget in an answer's `x-ratelimit-*` headers, if it has them."""
    limit, remaining, resets_at = (_whole(headers, f"x-ratelimit-{key}") for key in ("limit", "remaining", "reset"))
    if limit is None or remaining is None or resets_at is None:
        return None
    return Budget(headers.get("x-ratelimit-resource", "core")[:100], limit, remaining, resets_at)


def wait_seconds(status: int, headers: Mapping[str, str], message: str, now: float, refusals: int = 0) -> float | None:
    """How long an answer asks to wait; None when it is no rate limit. `now` is GitHub's clock.

    GitHub uses 403 and 429 for both kinds of limit. The order is that of its page on rate limits for the REST API.
    A secondary limit that names no time means a minute, doubled for each of the `refusals` right before it.
    """
    if status not in (403, 429):
        return None
    if (retry_after := _whole(headers, "retry-after")) is not None:
        return _bounded(retry_after)
    resets_at = _whole(headers, "x-ratelimit-reset")
    if _whole(headers, "x-ratelimit-remaining") == 0 and resets_at is not None:
        return _bounded(resets_at - now)
    if status == 429 or "rate limit" in message.lower():
        return float(_SECONDARY_SECONDS << min(refusals, _MOST_DOUBLINGS))
    return None


def _bounded(seconds: float) -> float:
    return min(max(seconds, 1), _LONGEST_SECONDS)


def _whole(headers: Mapping[str, str], name: str) -> int | None:
    text = headers.get(name, "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 15 else None
