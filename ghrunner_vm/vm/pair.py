"""Streams between a VMM and its host."""

import asyncio
import contextlib
import socket

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


async def keep(stream: socket.socket, log: Ring) -> None:
    """Write what comes out of `stream` to `log`, until its end."""
    while data := await asyncio.get_running_loop().sock_recv(stream, _LOG_BYTES):
        with contextlib.suppress(OSError):
            log.write(data)
