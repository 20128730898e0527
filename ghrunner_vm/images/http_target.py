"""Publishing to a server that takes PUT, as WebDAV and object stores behind a gateway do."""

import contextlib
import functools
from collections.abc import Iterator
from typing import BinaryIO, Self

import requests
from pydantic import SecretStr

from ghrunner_vm.clock import SYSTEM, Clock
from ghrunner_vm.errors import GhvmError, InfrastructureError, PermanentError, UsageError
from ghrunner_vm.images.target import Came, Source
from ghrunner_vm.urls import api_url, server_url

TRIES = 4
_TIMEOUTS = (10.0, 120.0)
"""Seconds to connect, and between two bytes: a server may store a large object before it answers."""
_FIRST_PAUSE = 1.0
_DONE = (200, 201, 204)


class HttpTarget:
    """The server at `url`. `token` goes along with each request, over https or to this host only."""

    def __init__(self, url: str, token: SecretStr | None = None, *, clock: Clock = SYSTEM) -> None:
        """Raises UsageError for what is no URL, and for a token that would be sent in the open."""
        try:
            self._url = server_url(url) if token is None else api_url(url)
        except ValueError as error:
            raise UsageError(f"{url!r} cannot be published to", details=f"It {error}.") from error
        self._clock = clock
        self._http = requests.Session()
        self._http.auth = _Bearer(token)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._http.close()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """See Target. Two that publish at once both come to their end; the last `latest` wins."""
        yield

    def has(self, path: str, source: Source) -> bool:
        """See Target: `HEAD`, which tells the length. What is small is rather sent."""
        if isinstance(source.content, bytes):
            return False
        with contextlib.suppress(requests.RequestException):
            response = self._http.head(f"{self._url}/{path}", timeout=_TIMEOUTS, allow_redirects=False)
            return response.status_code == 200 and response.headers.get("Content-Length") == str(source.size)
        return False

    def put(self, path: str, source: Source, came: Came) -> None:
        """See Target. What may pass is tried again from the start."""
        pause = _FIRST_PAUSE
        for rest in reversed(range(TRIES)):
            try:
                self._put(path, source, came)
                break
            except InfrastructureError:
                if not rest:
                    raise
            self._clock.sleep(pause)
            pause *= 2

    def _put(self, path: str, source: Source, came: Came) -> None:
        refused = functools.partial(self._refused, path)
        try:
            with source.open() as file:
                body = _Body(file, source.size, came)
                response = self._http.put(
                    f"{self._url}/{path}",
                    data=body if source.size else b"",
                    timeout=_TIMEOUTS,
                    allow_redirects=False,  # with its body gone half way, and the token with it
                )
        except requests.RequestException as error:
            raise refused(
                InfrastructureError, str(error)[:500], "Check the address, the server and the network."
            ) from error
        status = response.status_code
        if status in (401, 403):
            raise refused(PermanentError, f"status {status}", "Check GHVM_PUBLISH_TOKEN, and what it may write.")
        if status == 429 or status >= 500:
            raise refused(InfrastructureError, f"status {status}", "See to the server, then publish again.")
        if status not in _DONE:
            raise refused(PermanentError, f"status {status}", "Give the URL of a server that takes PUT, as it is.")

    def _refused(self, path: str, kind: type[GhvmError], why: str, resolution: str) -> GhvmError:
        return kind(
            f"{self._url} did not take {path}",
            details=f"PUT /{path}: {why}",
            resolution=f"{resolution} `latest` is as it was, unless that is what was being sent.",
        )


class _Body:
    """A file of known length that tells how much of it was read."""

    def __init__(self, file: BinaryIO, size: int, came: Came) -> None:
        self._file = file
        self._size = size
        self._came = came
        self._done = 0

    def __len__(self) -> int:
        return self._size

    def read(self, size: int = -1) -> bytes:
        block = self._file.read(size)
        self._done += len(block)
        self._came(self._done)
        return block


class _Bearer(requests.auth.AuthBase):
    """Given as `auth`, since a plain header would lose to an entry in ~/.netrc."""

    def __init__(self, token: SecretStr | None) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token is not None:
            request.headers["Authorization"] = f"Bearer {self._token.get_secret_value()}"
        return request
