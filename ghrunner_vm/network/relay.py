"""TCP connections between the guest and the host's loopback, without a route from the one to the other."""

import asyncio
import resource
import socket
from collections.abc import Callable

from ghrunner_vm.connections import LOOPBACK, exchange, serve_connections
from ghrunner_vm.network import addresses

SSH = (str(addresses.GUEST), 22)

_SO_ORIGINAL_DST = 80  # linux/netfilter_ipv4.h
_SOCKADDR_BYTES = 16
_CONNECTIONS = 512
_FORWARDED = 32
_CONNECT_SECONDS = 5.0
_TOLD = 20

Tell = Callable[[str], None]


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
            await exchange(guest, service)

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
            await exchange(client, guest)

    await serve_connections(listening, _FORWARDED, one)


def _affordable() -> int:
    """Connections that take half of this process's descriptors at most: the guest must leave us enough to go on."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _CONNECTIONS if soft == resource.RLIM_INFINITY else soft // 4


async def _connect(sock: socket.socket, address: tuple[str, int], seconds: float) -> None:
    async with asyncio.timeout(seconds):
        await asyncio.get_running_loop().sock_connect(sock, address)
