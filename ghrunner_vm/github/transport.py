"""One HTTP request to GitHub: headers, deadlines, bounded retries, and an answer that holds no secret of ours."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Literal, TypeVar

import requests
from pydantic import BaseModel, SecretStr, ValidationError

from ghrunner_vm import __version__
from ghrunner_vm.clock import SYSTEM, Clock
from ghrunner_vm.errors import InfrastructureError, UsageError
from ghrunner_vm.github.limits import Allowance, RateLimited
from ghrunner_vm.github.models import Problem
from ghrunner_vm.suggest import first_fault
from ghrunner_vm.urls import api_url

Method = Literal["GET", "POST", "DELETE"]
Model = TypeVar("Model", bound=BaseModel)

_HEADERS = {
    "Accept": "application/vnd.github+json",
    "X-GitHub-Api-Version": "2022-11-28",
    "User-Agent": f"ghvm/{__version__}",
}
TRIES = 4
"""How often a call is made before it is given up."""
_FIRST_PAUSE = 1.0
_MAX_BODY = 4 << 20


class Unreachable(InfrastructureError):
    """No usable answer came: no connection, a cut or slow one, or an error inside GitHub."""


@dataclass(frozen=True)
class Timeouts:
    """In seconds: to connect, between two pieces of an answer, and for one call: no retry begins later."""

    connect: float = 5
    read: float = 30
    total: float = 90


@dataclass(frozen=True)
class Answer:
    """What GitHub sent. `headers` ignore the case of their names."""

    status: int
    headers: Mapping[str, str]
    content: bytes = field(repr=False)

    @property
    def message(self) -> str:
        """GitHub's own sentence about an error, or nothing."""
        with contextlib.suppress(ValidationError):
            text = Problem.model_validate_json(self.content).message
            return "".join(character for character in text if character.isprintable())[:500]
        return ""

    @property
    def details(self) -> str:
        """For an error: the status, GitHub's sentence and the id that its support asks for."""
        parts = [f"GitHub answered {self.status}", self.message]
        if request_id := self.headers.get("x-github-request-id"):
            parts.append(f"x-github-request-id {request_id[:100]}")
        return "; ".join(part for part in parts if part)

    @property
    def date(self) -> float | None:
        """GitHub's clock in seconds since 1970, if it said."""
        try:
            return parsedate_to_datetime(self.headers["date"]).timestamp()
        except (KeyError, ValueError, OverflowError):
            return None

    def parse(self, model: type[Model]) -> Model:
        """The answer as a model. Raises Unreachable when it is something else, as from a proxy's login page."""
        try:
            return model.model_validate_json(self.content)
        except ValidationError as error:
            fault = first_fault(error)
            details = f"{self.details}; {fault.key or 'the body'}: {fault.why}"
        resolution = "Check --github-api-url, and whether a proxy on the way answers in GitHub's place."
        raise Unreachable("GitHub's answer is not what its API describes", details=details, resolution=resolution)


class Transport:
    """Sends requests, but none while GitHub wants silence. Safe to use from several threads."""

    def __init__(
        self,
        url: str,
        *,
        clock: Clock = SYSTEM,
        timeouts: Timeouts | None = None,
        allowance: Allowance | None = None,
    ) -> None:
        """Raises UsageError when a secret must not be sent to `url`."""
        try:
            self.url = api_url(url)
        except ValueError as error:
            raise UsageError(f"GitHub's API URL {error}", resolution="Check --github-api-url.") from error
        self.clock = clock
        self.allowance = allowance or Allowance(clock)
        self._timeouts = timeouts or Timeouts()
        self.drift: float | None = None
        """By how many seconds this host's clock was ahead of GitHub's at the last answer that told the time."""

    def send(
        self,
        method: Method,
        path: str,
        *,
        bearer: SecretStr,
        body: Mapping[str, object] | None = None,
        params: Mapping[str, str] | None = None,
        etag: str | None = None,
        tries: int = TRIES,
    ) -> Answer:
        """The answer of any status below 500 that is no rate limit; `path` begins with a slash.

        A 5xx, a cut and a timeout are tried again until `tries` or the total deadline is reached.
        Raises Unreachable after the last of them, and RateLimited at once.
        """
        request = requests.Request(method, self.url + path, json=body, params=params, auth=_Bearer(bearer))
        request.headers = {**_HEADERS, **({"If-None-Match": etag} if etag else {})}
        deadline = self.clock.monotonic() + self._timeouts.total
        pause = _FIRST_PAUSE
        while True:
            tries -= 1
            try:
                return self._once(request, deadline)
            except Unreachable:
                if tries <= 0 or self.clock.monotonic() + pause >= deadline:
                    raise
            self.clock.sleep(pause)
            pause *= 2

    def _once(self, request: requests.Request, deadline: float) -> Answer:
        self.allowance.check()
        try:
            answer = self._exchange(request, deadline)
        except (requests.RequestException, OSError) as error:  # OSError: the file of certificates is missing
            raise Unreachable(
                f"{request.method} {request.url}: no answer from GitHub",
                details=f"{type(error).__name__}: {str(error)[:500]}",
                resolution="Check the network, the proxy variables and --github-api-url.",
            ) from error
        if answer.date is not None:
            self.drift = self.clock.wall() - answer.date
        now = answer.date or self.clock.wall()
        wait = self.allowance.note(answer.status, answer.headers, answer.message, now)
        if answer.status >= 500:
            brief = f"{request.method} {request.url}: GitHub had an error of its own"
            raise Unreachable(brief, details=answer.details, resolution="See https://www.githubstatus.com.")
        if wait is not None:
            raise RateLimited(wait, details=answer.details)
        return answer

    def _exchange(self, request: requests.Request, deadline: float) -> Answer:
        timeout = (self._timeouts.connect, self._timeouts.read)
        # A session for each call: requests' sessions are not safe to share, and calls are rare.
        with requests.Session() as session:
            # Over plain http, which is loopback, no proxy from the environment may see the token.
            session.trust_env = self.url.startswith("https:")
            prepared = session.prepare_request(request)
            settings = session.merge_environment_settings(prepared.url, {}, True, None, None)
            with session.send(prepared, timeout=timeout, allow_redirects=False, **settings) as response:
                return Answer(response.status_code, response.headers, self._body(response, deadline))

    def _body(self, response: requests.Response, deadline: float) -> bytes:
        content = bytearray()
        for piece in response.iter_content(1 << 16):
            content += piece
            if len(content) > _MAX_BODY or self.clock.monotonic() > deadline:
                raise requests.RequestException("the answer is too long or too slow")
        return bytes(content)


class _Bearer(requests.auth.AuthBase):
    """Given as `auth`, since a plain header would lose to an entry in ~/.netrc."""

    def __init__(self, token: SecretStr) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token.get_secret_value()}"
        return request
