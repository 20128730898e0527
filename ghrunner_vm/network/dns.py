"""The guest's name server: it asks those of the host, and tells a watcher what it lets pass."""

import asyncio
import contextlib
import secrets
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import NamedTuple, Protocol

from ghrunner_vm.connections import serve_connections
from ghrunner_vm.network import dns_message
from ghrunner_vm.network.dns_message import AAAA, INTERNET, Answer, Code, Malformed, Query, Question
from ghrunner_vm.network.relay import Sparing, Tell

PORT = 53
RESOLV_CONF = Path("/etc/resolv.conf")

_SERVERS = 3  # as the C library, see resolv.conf(5)
_IN_FLIGHT = 256
_CONNECTIONS = 16
_QUERY_BYTES = 4096
_ANSWER_BYTES = 65_535
_FAILURES = (Code.SERVFAIL, Code.NOTIMP, Code.REFUSED)
"""What a server says that cannot help: another one may, as the C library sees it too."""


class Watcher(Protocol):
    """Who decides about names. Names are in lower case and without the last dot."""

    def permits(self, name: str, /) -> bool:
        """Whether the guest may ask for a name."""
        ...

    async def answered(self, name: str, addresses: Sequence[tuple[IPv4Address, int]], /) -> None:
        """Addresses, with how many seconds they hold, that the guest gets to know when this returns."""
        ...


class Server(NamedTuple):
    """A name server: the family of its address, and the address as sockets take it."""

    family: socket.AddressFamily
    address: tuple[object, ...]


class Upstream:
    """The name servers to ask: those given, or those of the host, whose file is read again when it has changed.

    Raises ValueError for what is no address.
    """

    def __init__(self, servers: Sequence[str] = (), *, port: int = PORT, path: Path = RESOLV_CONF) -> None:
        self._port = port
        self._path = path
        self._given = tuple(_server(text, port) for text in servers)
        self._read: tuple[Server, ...] = ()
        self._stamp: tuple[int, int] | None = None

    def servers(self) -> tuple[Server, ...]:
        """In the order in which they are to be asked."""
        if self._given:
            return self._given
        try:
            status = self._path.stat()
            if self._stamp != (status.st_mtime_ns, status.st_ino):
                self._read = _listed(self._path.read_text(encoding="utf-8", errors="replace"), self._port)
                self._stamp = (status.st_mtime_ns, status.st_ino)
        except OSError:
            self._read, self._stamp = (), None
        return self._read


@dataclass(frozen=True)
class Patience:
    """Seconds."""

    server: float = 2.0
    """Until the next server is asked."""
    query: float = 5.0
    """Until the guest is told that none has answered."""
    connection: float = 10.0
    """Until the guest must have sent a query, and have taken an answer, over TCP."""


async def serve_dns(
    udp: socket.socket,
    tcp: socket.socket,
    upstream: Upstream,
    watch: Watcher,
    tell: Tell | None = None,
    *,
    patience: Patience = Patience(),
) -> None:
    """Answer at two non-blocking sockets, of which `tcp` listens, until cancelled. `tell` hears what goes wrong."""
    service = _Service(_Forwarder(upstream, watch, patience, Sparing(tell)), patience)
    async with asyncio.TaskGroup() as group:
        group.create_task(service.datagrams(udp))
        group.create_task(serve_connections(tcp, _CONNECTIONS, service.connection))


@dataclass(frozen=True)
class _Asked:
    """A question under way to a server. An answer must know its id, which nobody else can."""

    message: bytes
    question: Question

    def answer(self, message: bytes) -> Answer | None:
        try:
            answer = dns_message.parse_answer(message)
        except Malformed:
            return None
        ours = dns_message.identity(message) == dns_message.identity(self.message)
        return answer if ours and answer.question == self.question else None


_Ask = Callable[[Server, _Asked], Awaitable[Answer]]
"""Asks one server, and waits for as long as it takes. Raises OSError."""


class _Forwarder:
    """Turns a message of the guest into an answer."""

    def __init__(self, upstream: Upstream, watch: Watcher, patience: Patience, tell: Tell) -> None:
        self._upstream = upstream
        self._watch = watch
        self._patience = patience
        self._tell = tell

    async def answer(self, query: Query, ask: _Ask) -> bytes:
        """What the guest gets for a query."""
        try:
            return await self._decide(query, ask)
        except Exception as error:  # noqa: BLE001 whatever a name does to a watcher, the next one is answered
            # Not the error's words: the guest may have chosen them.
            self._tell(f"a name could not be looked after: {type(error).__name__}")
            return dns_message.reply(query, Code.SERVFAIL)

    async def _decide(self, query: Query, ask: _Ask) -> bytes:
        question = query.question
        if not self._watch.permits(question.name):
            return dns_message.reply(query, Code.REFUSED)
        if (question.kind, question.klass) == (AAAA, INTERNET):
            # The guest's network has no IPv6: an address of it would only have to time out before the other is tried.
            return dns_message.reply(query, Code.NOERROR)
        answer = await self._best(query, ask)
        if answer is None:
            self._tell("no name server of this host answers the guest")
            return dns_message.reply(query, Code.SERVFAIL)
        if answer.addresses and answer.code == Code.NOERROR:
            await self._watch.answered(question.name, answer.addresses)
        return dns_message.with_identity(answer.message, dns_message.identity(query.message))

    async def _best(self, query: Query, ask: _Ask) -> Answer | None:
        """The first answer that helps; else the last one."""
        waiting = deque(self._upstream.servers())
        failure: Answer | None = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._patience.query):
                while waiting:
                    server = waiting.popleft()
                    try:
                        answer = await self._ask_one(server, query, ask)
                    except TimeoutError:
                        if failure is None:
                            waiting.append(server)  # a datagram can be lost
                    except OSError:
                        continue
                    else:
                        if answer.code not in _FAILURES:
                            return answer
                        failure = answer
        return failure

    async def _ask_one(self, server: Server, query: Query, ask: _Ask) -> Answer:
        message = dns_message.with_identity(query.message, secrets.token_bytes(2))
        async with asyncio.timeout(self._patience.server):
            return await ask(server, _Asked(message, query.question))


class _Service:
    """Takes the guest's messages, only so many at a time."""

    def __init__(self, forwarder: _Forwarder, patience: Patience) -> None:
        self._forwarder = forwarder
        self._patience = patience
        self._flying: set[asyncio.Task[None]] = set()

    async def datagrams(self, udp: socket.socket) -> None:
        """Answer by UDP, until cancelled. What is too much gets no answer: the guest asks again."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            while True:
                await asyncio.sleep(0)  # reading does not wait while there is more
                message, source = await loop.sock_recvfrom(udp, _QUERY_BYTES + 1)
                query = _query(message)
                if query is not None and not self._full:
                    self._launch(group, self._by_datagram(udp, query, source))

    async def connection(self, guest: socket.socket) -> None:
        """Answer over one connection, in the order in which answers come (RFC 7766 6.2.1.1). Raises OSError."""
        turn = asyncio.Lock()
        broken = False
        try:
            async with asyncio.TaskGroup() as group:
                while (message := await self._received(guest)) is not None:
                    query = _query(message)
                    if query is not None and self._full:
                        await self._send(guest, turn, dns_message.reply(query, Code.REFUSED))
                    elif query is not None:
                        self._launch(group, self._by_connection(guest, turn, query))
        except* OSError:
            broken = True
        if broken:
            raise ConnectionAbortedError

    @property
    def _full(self) -> bool:
        return len(self._flying) >= _IN_FLIGHT

    def _launch(self, group: asyncio.TaskGroup, work: Coroutine[None, None, None]) -> None:
        task = group.create_task(work)
        self._flying.add(task)
        task.add_done_callback(self._flying.discard)

    async def _by_datagram(self, udp: socket.socket, query: Query, source: tuple[str, int]) -> None:
        answer = await self._forwarder.answer(query, _ask_by_udp)
        with contextlib.suppress(OSError):  # it may be lost like any other datagram
            udp.sendto(answer, source)

    async def _by_connection(self, guest: socket.socket, turn: asyncio.Lock, query: Query) -> None:
        await self._send(guest, turn, await self._forwarder.answer(query, _ask_by_tcp))

    async def _send(self, guest: socket.socket, turn: asyncio.Lock, answer: bytes) -> None:
        async with asyncio.timeout(self._patience.connection), turn:
            await asyncio.get_running_loop().sock_sendall(guest, _framed(answer))

    async def _received(self, guest: socket.socket) -> bytes | None:
        """The next message; None if there is none, or it is too long, or takes too long."""
        await asyncio.sleep(0)  # reading does not wait while there is more
        try:
            async with asyncio.timeout(self._patience.connection):
                return await _message(guest, _QUERY_BYTES)
        except (TimeoutError, EOFError):
            return None


async def _ask_by_udp(server: Server, asked: _Asked) -> Answer:
    loop = asyncio.get_running_loop()
    with socket.socket(server.family, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        # The kernel gives it a port by chance, and lets through only what comes from the server.
        await loop.sock_connect(sock, server.address)
        sock.send(asked.message)
        while True:
            answer = asked.answer(await loop.sock_recv(sock, _ANSWER_BYTES))
            if answer is not None:
                return answer


async def _ask_by_tcp(server: Server, asked: _Asked) -> Answer:
    loop = asyncio.get_running_loop()
    with socket.socket(server.family, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, server.address)
        await loop.sock_sendall(sock, _framed(asked.message))
        while True:
            try:
                answer = asked.answer(await _message(sock, _ANSWER_BYTES))
            except EOFError:
                raise ConnectionAbortedError from None
            if answer is not None:
                return answer


def _framed(message: bytes) -> bytes:
    """As it goes over TCP, RFC 1035 4.2.2."""
    return len(message).to_bytes(2, "big") + message


async def _message(sock: socket.socket, most: int) -> bytes:
    """The next message over TCP. Raises EOFError if there is none or it is longer than `most` bytes, and OSError."""
    size = int.from_bytes(await _exactly(sock, 2), "big")
    if size > most:
        raise EOFError
    return await _exactly(sock, size)


async def _exactly(sock: socket.socket, size: int) -> bytes:
    taken = b""
    while len(taken) < size:
        piece = await asyncio.get_running_loop().sock_recv(sock, size - len(taken))
        if not piece:
            raise EOFError
        taken += piece
    return taken


def _query(message: bytes) -> Query | None:
    if len(message) > _QUERY_BYTES:
        return None
    try:
        return dns_message.parse_query(message)
    except Malformed:
        return None


def _listed(text: str, port: int) -> tuple[Server, ...]:
    """The servers of a resolv.conf(5). What is no address is passed over, as the C library does."""
    words = [line.split() for line in text.splitlines()]
    found: list[Server] = []
    for address in [line[1] for line in words if len(line) > 1 and line[0] == "nameserver"]:
        with contextlib.suppress(ValueError):
            found.append(_server(address, port))
    return tuple(found[:_SERVERS])


def _server(text: str, port: int) -> Server:
    """Raises ValueError, with words for a person."""
    ip_address(text)
    try:
        # It looks nothing up: the text is an address, perhaps with the name of an interface behind it.
        family, _, _, _, address = socket.getaddrinfo(
            text, port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        )[0]
    except OSError as error:
        raise ValueError(f"{text} is no address on this host: {error}") from error
    return Server(family, address)
