"""Streams that are served and joined, and ports of the host's loopback that lead somewhere."""

import asyncio
import contextlib
import functools
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine

from ghrunner_vm.errors import GhvmError, InfrastructureError

LOOPBACK = "127.0.0.1"
_CHUNK = 64 * 1024
_PAUSE_SECONDS = 0.1

Serve = Callable[[socket.socket], Awaitable[None]]


@contextlib.asynccontextmanager
async def beside(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Do it beside the block, at the end of which it is cancelled. An error in it is lost."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


def listen(port: int = 0) -> socket.socket:
    """A non-blocking socket that listens at a port of the host's loopback (0: any). Raises InfrastructureError."""
    try:
        listening = socket.create_server((LOOPBACK, port))
    except OSError as error:
        raise InfrastructureError(
            f"Port {port} of this host's loopback is taken" if port else "No port could be opened",
            details=error.strerror,
            resolution="Choose another --ssh-port, or leave it out.",
        ) from error
    listening.setblocking(False)
    return listening


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


async def exchange(one: socket.socket, other: socket.socket) -> None:
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
