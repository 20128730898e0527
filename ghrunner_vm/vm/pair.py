"""Streams between a VMM and its host."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

from ghrunner_vm.ring import Ring

_LOG_BYTES = 8192


class Pair:
    """A connected pair of stream sockets; a path would need a wait and could be squatted on."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.ours.setblocking(False)

    def __enter__(self) -> "Pair":
        return self

    def __exit__(self, *_: object) -> None:
        self.ours.close()
        self.theirs.close()


@contextlib.asynccontextmanager
async def kept(stream: socket.socket, log: Ring) -> AsyncIterator[None]:
    """Write what comes out of `stream` to `log`, beside the block."""

    async def keep() -> None:
        while data := await asyncio.get_running_loop().sock_recv(stream, _LOG_BYTES):
            with contextlib.suppress(OSError):
                log.write(data)

    task = asyncio.create_task(keep())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
