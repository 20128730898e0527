"""What surrounds every answer of GitHub's API: who asks, the rate limit, and the common headers."""

import math
import secrets
import threading
from dataclasses import dataclass

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ghrunner_vm.clock import Clock
from ghrunner_vm.simulator.identity import BadCredentials, Identity, Principal
from ghrunner_vm.simulator.problems import Denied, problem

API_VERSIONS = ("2022-11-28", "2026-03-10")
HOUR = 3600
NO_USER_AGENT = (
    "Request forbidden by administrative rules. Please make sure your request has a User-Agent header "
    "(https://docs.github.com/rest/overview/resources-in-the-rest-api#user-agent-required)."
)


@dataclass(frozen=True)
class Rate:
    """One bucket of the primary rate limit; `reset` is seconds since 1970."""

    limit: int
    used: int
    reset: int

    @property
    def remaining(self) -> int:
        """Requests left until `reset`."""
        return max(0, self.limit - self.used)

    def as_json(self) -> dict[str, int]:
        """The form in `GET /rate_limit`."""
        return {"limit": self.limit, "used": self.used, "remaining": self.remaining, "reset": self.reset}


class RateLimits:
    """The primary rate limit: so many requests an hour for each bucket. `limit` may be changed at any time."""

    def __init__(self, clock: Clock, limit: int = 5000) -> None:
        self.limit = limit
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: dict[str, tuple[int, int]] = {}

    def look(self, bucket: str) -> Rate:
        """A bucket as it stands."""
        return self.spend(bucket, 0)

    def spend(self, bucket: str, count: int = 1) -> Rate:
        """Count requests against a bucket."""
        now = self._clock.wall()
        with self._lock:
            used, reset = self._buckets.get(bucket, (0, 0))
            if now >= reset:
                used, reset = 0, math.ceil(now + HOUR)
            self._buckets[bucket] = (used + count, reset)
        return Rate(self.limit, used + count, reset)


class Envelope:
    """ASGI middleware around the API: User-Agent, API version, Authorization, rate limit, headers of the answer.

    The handlers find the Principal in `request.state.principal`.
    """

    def __init__(self, app: ASGIApp, identity: Identity, rates: RateLimits, clock: Clock) -> None:
        self._app = app
        self._identity = identity
        self._rates = rates
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the request, pass it on, and complete the answer."""
        request = Request(scope)
        principal, refusal = self._check(request)
        request.state.principal = principal
        free = request.url.path == "/rate_limit"
        if refusal is None and not free and self._rates.look(principal.bucket).remaining == 0:
            refusal, free = problem(Denied(403, f"API rate limit exceeded for {principal.bucket}.")), True

        async def complete(message: Message) -> None:
            if message["type"] == "http.response.start":
                cost = 0 if free or message["status"] == 304 else 1
                self._complete(MutableHeaders(scope=message), request, self._rates.spend(principal.bucket, cost))
            await send(message)

        await (refusal or self._app)(scope, receive, complete)

    def _check(self, request: Request) -> tuple[Principal, Response | None]:
        nobody = Principal("anonymous", "anonymous")
        if not request.headers.get("user-agent"):
            return nobody, PlainTextResponse(NO_USER_AGENT, 403)
        if _version(request) not in API_VERSIONS:
            return nobody, problem(Denied(400, f'"{_version(request)}" is not a supported API version.'))
        try:
            return self._identity.authenticate(request.headers.get("authorization")), None
        except BadCredentials as error:
            return nobody, problem(error)

    def _complete(self, headers: MutableHeaders, request: Request, rate: Rate) -> None:
        for name, value in rate.as_json().items():
            headers[f"x-ratelimit-{name}"] = str(value)
        headers["x-ratelimit-resource"] = "core"
        headers["x-github-api-version-selected"] = _version(request)
        headers["x-github-request-id"] = ":".join(secrets.token_hex(size).upper() for size in (2, 3, 4, 4, 4))


def _version(request: Request) -> str:
    return request.headers.get("x-github-api-version", API_VERSIONS[0])
