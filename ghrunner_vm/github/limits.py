"""GitHub's rate limits: the budget that is left, and how long to wait when there is none."""

from collections.abc import Mapping
from dataclasses import dataclass

from ghrunner_vm.errors import InfrastructureError

_SECONDARY_SECONDS = 60
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


def budget(headers: Mapping[str, str]) -> Budget | None:
    """The budget in an answer's `x-ratelimit-*` headers, if it has them."""
    limit, remaining, resets_at = (_whole(headers, f"x-ratelimit-{key}") for key in ("limit", "remaining", "reset"))
    if limit is None or remaining is None or resets_at is None:
        return None
    return Budget(headers.get("x-ratelimit-resource", "core")[:100], limit, remaining, resets_at)


def wait_seconds(status: int, headers: Mapping[str, str], message: str, now: float) -> float | None:
    """How long an answer asks to wait; None when it is no rate limit. `now` is GitHub's clock.

    GitHub uses 403 and 429 for both kinds of limit. The order is that of its page on rate limits for the REST API.
    """
    if status not in (403, 429):
        return None
    if (retry_after := _whole(headers, "retry-after")) is not None:
        return _bounded(retry_after)
    resets_at = _whole(headers, "x-ratelimit-reset")
    if _whole(headers, "x-ratelimit-remaining") == 0 and resets_at is not None:
        return _bounded(resets_at - now)
    if status == 429 or "secondary rate limit" in message.lower():
        return _SECONDARY_SECONDS
    return None


def _bounded(seconds: float) -> float:
    return min(max(seconds, 1), _LONGEST_SECONDS)


def _whole(headers: Mapping[str, str], name: str) -> int | None:
    text = headers.get(name, "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 15 else None
