"""A secret behind a URL that works once: for images that fetch their registration (credential `gha-jitconfig-url`)."""

import asyncio
import contextlib
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

_REQUEST_BYTES = 8192
_REQUEST_SECONDS = 10.0
_FETCH_SECONDS = 600.0
_VISITORS = 8
"""Connections at a time: a guest may open any number of them."""
_REFUSALS_TOLD = 20
_REQUEST_LINE = re.compile(rb"GET /([A-Za-z0-9_-]{1,200})(?:\?[^ ]*)? HTTP/1\.[01]\r\n")
_REASONS = {200: "OK", 400: "Bad Request", 403: "Forbidden", 410: "Gone", 503: "Service Unavailable"}

Fetch = Callable[[], Awaitable[str | None]]
Refuse = Callable[[str], None]


@dataclass(frozen=True)
class Refused(Exception):
    """A request that does not get the secret: the HTTP status, and the reason for whoever asked and for the log."""

    status: int
    why: str


class OneShot:
    """Answers one fetch with the secret, and refuses all others. `refuse` hears why, twenty times at most."""

    def __init__(self, fetch: Fetch, refuse: Refuse) -> None:
        self.path = secrets.token_urlsafe(48)
        """The secret part of the URL."""
        self._fetch = fetch
        self._refuse = refuse
        self._refusals = 0
        self._visitors = 0
        self._used = False
        self._closed = False

    def close(self) -> None:
        """Refuse every fetch from now on: the runner is online, so nobody needs the secret any more."""
        self._closed = True

    async def visit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self._visitors += 1
        try:
            if self._visitors <= _VISITORS:
                writer.write(_response(*await self._answer(reader)))
                await writer.drain()
        except OSError:
            self._tell("the connection broke before the answer")
        finally:
            self._visitors -= 1
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[int, str]:
        try:
            self._check(await _request(reader))
        except Refused as refused:
            self._tell(refused.why)
            return refused.status, f"error: {refused.why}"
        async with asyncio.timeout(_FETCH_SECONDS):
            secret = await self._fetch()
        return (503, "error: no registration could be had") if secret is None else (200, secret)

    def _check(self, path: str) -> None:
        if not secrets.compare_digest(path, self.path):
            raise Refused(403, "the token is wrong")
        if self._closed:
            raise Refused(410, "the runner is online already")
        if self._used:
            raise Refused(400, "the registration was fetched before")
        self._used = True

    def _tell(self, why: str) -> None:
        self._refusals += 1
        if self._refusals <= _REFUSALS_TOLD:
            more = "; no more of these are told" if self._refusals == _REFUSALS_TOLD else ""
            self._refuse(f"{why}{more}")


@contextlib.asynccontextmanager
async def serve_once(shot: OneShot) -> AsyncIterator[int]:
    """Serve on 127.0.0.1; gives the port."""
    server = await asyncio.start_server(shot.visit, "127.0.0.1", 0, limit=_REQUEST_BYTES)
    port: int = server.sockets[0].getsockname()[1]
    try:
        yield port
    finally:
        server.close()


async def _request(reader: asyncio.StreamReader) -> str:
    """The path that is asked for, without a query: images append one to catch what old QEMUs leave behind a URL."""
    try:
        async with asyncio.timeout(_REQUEST_SECONDS):
            head = await reader.readuntil(b"\r\n\r\n")
    except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        raise Refused(400, "the request is cut off or too long") from None
    match = _REQUEST_LINE.match(head)
    if match is None:
        raise Refused(400, "the request is malformed")
    return match[1].decode("ascii")


def _response(status: int, body: str) -> bytes:
    content = body.encode() + b"\n"
    head = f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: text/plain\r\nContent-Length: {len(content)}\r\n"
    return head.encode() + b"Connection: close\r\n\r\n" + content
