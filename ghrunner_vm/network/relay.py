"""TCP connections between the guest and the host's loopback, without a route from the one to the other."""

import asyncio
import functools
import resource
import socket
import struct
from collections.abc import Awaitable, Callable

from ghrunner_vm.errors import GhvmError
from ghrunner_vm.network import addresses

LOOPBACK = "127.0.0.1"
SSH = (str(addresses.GUEST), 22)

_SO_ORIGINAL_DST = 80  # linux/netfilter_ipv4.h
_SOCKADDR_BYTES = 16
_CONNECTIONS = 512
_FORWARDED = 32
_CONNECT_SECONDS = 5.0
_CHUNK = 64 * 1024
_PAUSE_SECONDS = 0.1
_TOLD = 20

Tell = Callable[[str], None]
Serve = Callable[[socket.socket], Awaitable[None]]


class Sparing:
    """Tells each thing once, and twenty things at most: what a guest causes must not fill a log."""

    def __init__(self, tell: Tell | None) -> None:
        self._tell = tell
        self._told: set[str] = set()

    def __call__(self, what: str) -> None:
        if self._tell is not None and what not in self._told and len(self._told) < _TOLD:
            self._told.add(what)
            more = "; no more of these are told" if len(self._told) == _TOLD else ""
            self._tell(f"{what}{more}")


def original_port(connection: socket.socket) -> int:
    """The port that a redirected connection was meant for. Raises OSError if it was not redirected."""
    address = connection.getsockopt(socket.SOL_IP, _SO_ORIGINAL_DST, _SOCKADDR_BYTES)
    return int.from_bytes(address[2:4], "big")


async def serve_relay(
    listening: socket.socket,
    permitted: Callable[[int], bool],
    tell: Tell | None = None,
    *,
    port_of: Callable[[socket.socket], int] = original_port,
    connections: int = _CONNECTIONS,
    connect_seconds: float = _CONNECT_SECONDS,
) -> None:
    """Relay what was redirected to a non-blocking socket to the same port of the host's loopback, until cancelled.

    A port that is not permitted, or where nobody answers, resets the connection; `tell` hears of it.
    """
    sparing = Sparing(tell)

    async def one(guest: socket.socket) -> None:
        port = port_of(guest)
        if not permitted(port):
            sparing(f"the guest may not reach port {port} of this host's loopback")
            raise ConnectionRefusedError
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as service:
            service.setblocking(False)
            try:
                await _connect(service, (LOOPBACK, port), connect_seconds)
            except OSError:
                sparing(f"the guest may reach port {port} of this host's loopback, but nobody answers there")
                raise
            await _exchange(guest, service)

    await serve_connections(listening, min(connections, _affordable()), one)


async def forward(
    listening: socket.socket,
    connect: Callable[[], socket.socket],
    *,
    to: tuple[str, int] = SSH,
    connect_seconds: float = _CONNECT_SECONDS,
) -> None:
    """Relay what connects to a non-blocking socket to the guest's SSH, until cancelled.

    `connect` makes the non-blocking socket for it in the guest's namespace; it may raise OSError or GhvmError.
    """

    async def one(client: socket.socket) -> None:
        with connect() as guest:
            await _connect(guest, to, connect_seconds)
            await _exchange(client, guest)

    await serve_connections(listening, _FORWARDED, one)


async def serve_connections(listening: socket.socket, most: int, serve: Serve) -> None:
    """Serve each connection to a non-blocking socket in a task of its own, and close it after that, until cancelled.

    It is reset if there are too many, or if `serve` raises OSError or GhvmError.
    """
    serving: set[asyncio.Task[None]] = set()
    async with asyncio.TaskGroup() as group:
        while True:
            connection = await _accept(listening)
            if len(serving) >= most:
                reset(connection)
                continue
            task = group.create_task(_serve_one(connection, serve))
            serving.add(task)
            task.add_done_callback(serving.discard)
            # Not in the task itself: one that is cancelled before it begins does nothing.
            task.add_done_callback(functools.partial(_close, connection))


def reset(connection: socket.socket) -> None:
    """Close a connection such that its peer cannot take what it got for all there is."""
    if connection.fileno() >= 0:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()


async def _serve_one(connection: socket.socket, serve: Serve) -> None:
    try:
        await serve(connection)
    except (OSError, GhvmError):
        reset(connection)


def _close(connection: socket.socket, _task: asyncio.Task[None]) -> None:
    connection.close()


async def _accept(listening: socket.socket) -> socket.socket:
    while True:
        await asyncio.sleep(0)  # accepting does not wait while there is more
        try:
            connection, _ = await asyncio.get_running_loop().sock_accept(listening)
        except OSError:
            # It is gone already, or we have no descriptor left for it: accept(2) says to try again.
            await asyncio.sleep(_PAUSE_SECONDS)
        else:
            return connection


def _affordable() -> int:
    """Connections that take half of this process's descriptors at most: the guest must leave us enough to go on."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _CONNECTIONS if soft == resource.RLIM_INFINITY else soft // 4


async def _connect(sock: socket.socket, address: tuple[str, int], seconds: float) -> None:
    async with asyncio.timeout(seconds):
        await asyncio.get_running_loop().sock_connect(sock, address)


async def _exchange(one: socket.socket, other: socket.socket) -> None:
    """Until both have said that they are at their end. If one breaks, so does the other."""
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_pour(one, other))
            group.create_task(_pour(other, one))
    except* OSError:
        reset(one)
        reset(other)


async def _pour(source: socket.socket, target: socket.socket) -> None:
    """No more is read than was taken at the other side."""
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(source, _CHUNK):
        await loop.sock_sendall(target, data)
        await asyncio.sleep(0)  # neither of them waits while there is more
    target.shutdown(socket.SHUT_WR)
