"""One file from GitHub's releases, as a stream."""

import functools
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import requests
import urllib3

from ghrunner_vm import __version__
from ghrunner_vm.clock import SYSTEM, Clock
from ghrunner_vm.errors import InfrastructureError, PermanentError
from ghrunner_vm.images.build.tarballs import MAX_BYTES, too_long
from ghrunner_vm.images.deadline import within
from ghrunner_vm.urls import api_url

_CONNECT_SECONDS = 10.0
_READ_SECONDS = 60.0
_ANSWER_SECONDS = 60.0
_TOTAL_SECONDS = 3600.0
_CHUNK = 256 << 10

Progress = Callable[[int, int | None], None]
"""Hears how many bytes there are, of how many, if that is known."""


def fetch(url: str, progress: Progress, *, clock: Clock = SYSTEM) -> Iterator[bytes]:
    """The bytes of a file of at most 1 GiB. No secret of ours is sent along.

    Raises PermanentError when there is none at this address, InfrastructureError when it does not come, or not within
    an hour. What comes is not checked.
    """
    deadline = clock.monotonic() + _TOTAL_SECONDS
    with requests.Session() as session, _answer(session, _checked(url)) as response:
        total = _length(response, url)
        done = 0
        while block := _read(response, url):
            done += len(block)
            progress(done, total)
            yield block
            if clock.monotonic() > deadline:
                raise _broken(url, f"it did not come within {_TOTAL_SECONDS:.0f} s")
    if total is not None and done < total:
        raise _broken(url, f"the connection ended after {done} of {total} bytes")


def _checked(url: str) -> str:
    try:
        return api_url(url)
    except ValueError as error:
        raise InfrastructureError(f"GitHub gave an address that cannot be used: it {error}", details=url) from error


def _answer(session: requests.Session, url: str) -> requests.Response:
    session.max_redirects = 5
    # Plain http is loopback, which no proxy from the environment can reach.
    session.trust_env = urlsplit(url).scheme == "https"
    headers = {"Accept-Encoding": "identity", "User-Agent": f"ghvm/{__version__}"}
    timeouts = (_CONNECT_SECONDS, _READ_SECONDS)
    ask = functools.partial(session.get, url, headers=headers, stream=True, timeout=timeouts)
    try:
        return within(_ANSWER_SECONDS, ask, requests.Response.close, name="fetch")
    except (requests.RequestException, urllib3.exceptions.HTTPError, TimeoutError, ValueError, OSError) as error:
        raise _broken(url, str(error) or "no answer in time") from error


def _length(response: requests.Response, url: str) -> int | None:
    if response.status_code in (403, 404, 410):
        raise PermanentError(
            "There is no such version of the runner",
            details=f"{url}: {response.status_code}",
            resolution="See https://github.com/actions/runner/releases for those that there are.",
        )
    if response.status_code != 200:
        raise _broken(url, f"the server answered {response.status_code}")
    text = response.headers.get("Content-Length", "")
    length = int(text) if text.isascii() and text.isdigit() else None
    if length is not None and length > MAX_BYTES:
        raise too_long(url)
    return length


def _read(response: requests.Response, url: str) -> bytes:
    try:
        return bytes(response.raw.read1(_CHUNK, decode_content=False))
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise _broken(url, str(error)) from error


def _broken(url: str, why: str) -> InfrastructureError:
    return InfrastructureError(
        "The runner could not be downloaded",
        details=f"{url}: {why}"[:1000],
        resolution="Check the network and the proxy variables, then try again; or give the tarball by --runner.",
    )
