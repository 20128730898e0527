"""Streams to a guest's virtio sockets through Firecracker's own socket (docs/vsock.md)."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

from ghrunner_vm.errors import InfrastructureError

AGENT_PORT, SSH_PORT = 1024, 22
_LOOPBACK = "127.0.0.1"
_RETRY_SECONDS = 0.05
_ANSWER_SECONDS = 10.0
_ANSWER_BYTES = 32
_PIECE = 64 * 1024


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


@contextlib.asynccontextmanager
async def carried(path: str, port: int, ours: socket.socket) -> AsyncIterator[None]:
    """Beside the block: connect to a port of the guest as soon as something listens there, and join it with `ours`.

    `ours` is closed when the guest's stream ends.
    """
    task = asyncio.create_task(_carry(path, port, ours))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def _carry(path: str, port: int, ours: socket.socket) -> None:
    while True:
        try:
            stream = await connect(path, port)
            break
        except OSError:  # the guest boots; whether it takes too long is for others to say
            await asyncio.sleep(_RETRY_SECONDS)
    await join(ours, stream)


async def join(one: socket.socket, other: socket.socket) -> None:
    """Carry what comes out of each stream into the other until one of them ends; then both are closed."""
    pumps = [asyncio.create_task(_pump(one, other)), asyncio.create_task(_pump(other, one))]
    try:
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.wait(pumps)
        one.close()
        other.close()


async def _pump(source: socket.socket, target: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError):
        while data := await loop.sock_recv(source, _PIECE):
            await loop.sock_sendall(target, data)
            await asyncio.sleep(0)  # a guest that never stops must not keep the loop to itself


@contextlib.asynccontextmanager
async def forwarded(port: int, path: str, guest_port: int) -> AsyncIterator[int]:
    """A port of the host's loopback (0: any) that leads to one of the guest, during the block. Gives its number.

    Raises InfrastructureError if it is taken.
    """
    try:
        listening = socket.create_server((_LOOPBACK, port))
    except OSError as error:
        raise InfrastructureError(
            f"Port {port} of this host's loopback is taken" if port else "No port could be opened",
            details=error.strerror,
            resolution="Choose another --ssh-port, or leave it out.",
        ) from error
    listening.setblocking(False)
    with listening:
        task = asyncio.create_task(_serve(listening, path, guest_port))
        try:
            yield int(listening.getsockname()[1])
        finally:
            task.cancel()
            await asyncio.wait({task})


async def _serve(listening: socket.socket, path: str, guest_port: int) -> None:
    async with asyncio.TaskGroup() as connections:
        while True:
            came, _ = await asyncio.get_running_loop().sock_accept(listening)
            came.setblocking(False)
            connections.create_task(_answer(came, path, guest_port))


async def _answer(came: socket.socket, path: str, guest_port: int) -> None:
    with came, contextlib.suppress(OSError):
        await join(came, await connect(path, guest_port))
