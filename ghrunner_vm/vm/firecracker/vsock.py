"""Streams to a guest's virtio sockets through Firecracker's own socket (docs/vsock.md)."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

from ghrunner_vm.connections import beside, exchange, listen, serve_connections

AGENT_PORT, SSH_PORT = 1024, 22
_RETRY_SECONDS = 0.05
_ANSWER_SECONDS = 10.0
_ANSWER_BYTES = 32
_FORWARDED = 32


async def connect(path: str, port: int) -> socket.socket:
    """A stream to a port of the guest. Raises OSError if nothing listens there, or not yet."""
    stream = socket.socket(socket.AF_UNIX)
    stream.setblocking(False)
    try:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(_ANSWER_SECONDS):
            await loop.sock_connect(stream, path)
            await loop.sock_sendall(stream, f"CONNECT {port}\n".encode())
            await _greeted(stream)
    except BaseException as error:
        stream.close()
        if isinstance(error, TimeoutError):
            raise ConnectionRefusedError("the guest does not answer") from error
        raise
    return stream


async def _greeted(stream: socket.socket) -> None:
    """Read `OK NUMBER` and its line's end, and nothing of what follows."""
    told = b""
    while not told.endswith(b"\n"):
        piece = await asyncio.get_running_loop().sock_recv(stream, 1)
        told += piece
        if not piece or len(told) > _ANSWER_BYTES:
            raise ConnectionRefusedError("nothing listens in the guest")


async def carry(path: str, port: int, ours: socket.socket) -> None:
    """Connect to a port of the guest as soon as something listens there, and join it with `ours`."""
    while True:
        try:
            stream = await connect(path, port)
            break
        except OSError:  # the guest boots; whether it takes too long is for others to say
            await asyncio.sleep(_RETRY_SECONDS)
    with stream:
        await exchange(ours, stream)


@contextlib.asynccontextmanager
async def forwarded(port: int, path: str, guest_port: int) -> AsyncIterator[int]:
    """A port of the host's loopback (0: any) that leads to one of the guest, during the block. Gives its number.

    Raises InfrastructureError if it is taken.
    """

    async def one(came: socket.socket) -> None:
        with await connect(path, guest_port) as stream:
            await exchange(came, stream)

    with listen(port) as listening:
        async with beside(serve_connections(listening, _FORWARDED, one)):
            yield int(listening.getsockname()[1])
