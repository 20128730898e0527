"""A secret behind a URL that works once: for images that fetch their registration (credential `gha-jitconfig-url`)."""

import asyncio
import contextlib
import re
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

_REQUEST_BYTES = 8192
_REQUEST_SECONDS = 10.0
_FETCH_SECONDS = 600.0
_VISITORS = 32
"""Connections at a time: a guest may open any number of them."""
_REFUSALS_TOLD = 20
_REQUEST_LINE = re.compile(rb"GET /([A-Za-z0-9_-]{1,200})(?:\?[^ ]*)? HTTP/1\.[01]\r\n")
_REASONS = {200: "OK", 400: "Bad Request", 403: "Forbidden", 410: "Gone"}

Fetch = Callable[[], Awaitable[str]]
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
        self._visitors: dict[asyncio.StreamWriter, bool] = {}
        """Who is here, longest first, and whether they have asked."""
        self._turn = asyncio.Lock()
        self._used = False
        self._closed = False

    def close(self) -> None:
        """Refuse every fetch from now on: the runner is online, so nobody needs the secret any more."""
        self._closed = True

    async def visit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        try:
            if self._admit(writer):
                await self._serve(reader, writer)
        except OSError:
            self._tell("the connection broke before the answer")
        finally:
            self._visitors.pop(writer, None)
            writer.close()

    def _admit(self, writer: asyncio.StreamWriter) -> bool:
        """Let one more in. If there are too many, the one that has said nothing for longest makes room."""
        if len(self._visitors) >= _VISITORS:
            silent = next((visitor for visitor, asked in self._visitors.items() if not asked), None)
            if silent is None:
                return False
            del self._visitors[silent]
            silent.close()
        self._visitors[writer] = False
        return True

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self._check(await _request(reader))
            self._visitors[writer] = True
            # One after the other: if the first hangs up before its answer, the next one may have it.
            async with self._turn:
                await self._give(reader, writer)
        except Refused as refused:
            self._tell(refused.why)
            await _send(writer, refused.status, f"error: {refused.why}")

    def _check(self, path: str) -> None:
        if not secrets.compare_digest(path, self.path):
            raise Refused(403, "the token is wrong")

    async def _give(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._require_unused()
        async with asyncio.timeout(_FETCH_SECONDS):
            secret = await self._fetch()
        self._require_unused()
        if reader.at_eof():
            raise Refused(400, "whoever asked has hung up before the answer")
        await _send(writer, 200, secret)
        self._used = True

    def _require_unused(self) -> None:
        if self._closed:
            raise Refused(410, "the runner is online already")
        if self._used:
            raise Refused(400, "the registration was fetched before")

    def _tell(self, why: str) -> None:
        self._refusals += 1
        if self._refusals <= _REFUSALS_TOLD:
            more = "; no more of these are told" if self._refusals == _REFUSALS_TOLD else ""
            self._refuse(f"{why}{more}")


@contextlib.asynccontextmanager
async def serve_once(shot: OneShot, listening: socket.socket) -> AsyncIterator[None]:
    """Serve at a socket that listens, and close it in the end."""
    server = await asyncio.start_server(shot.visit, sock=listening, limit=_REQUEST_BYTES)
    try:
        yield
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


async def _send(writer: asyncio.StreamWriter, status: int, body: str) -> None:
    content = body.encode() + b"\n"
    head = f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: text/plain\r\nContent-Length: {len(content)}\r\n"
    writer.write(head.encode() + b"Connection: close\r\n\r\n" + content)
    await writer.drain()
