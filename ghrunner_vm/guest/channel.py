"""The host's end of the guest channel."""

import asyncio
import socket
from collections.abc import Callable

from ghrunner_vm.guest.messages import GuestMessage, LineBuffer, Log, Overlong, decode

_CHUNK = 64 * 1024
_WRITE_SECONDS = 30.0
_DISCARD_SECONDS = 0.05


class Limits:
    """How much a guest may say in its life before its channel is closed."""

    def __init__(self, log_bytes: int = 256 << 20, messages: int = 100, garbage: int = 100) -> None:
        self._log_bytes = log_bytes
        self._messages = messages
        self._garbage = garbage

    def admit(self, line: bytes, message: GuestMessage | None) -> str | None:
        """Why this line is one too many, or None."""
        if message is None:
            self._garbage -= 1
            return None if self._garbage >= 0 else "it sends garbage"
        if isinstance(message, Log):
            self._log_bytes -= len(line)
            return None if self._log_bytes >= 0 else "it floods its log"
        self._messages -= 1
        return None if self._messages >= 0 else "it sends too many messages"


class GuestChannel:
    """Reads what the guest says and hands each message on; writes what the host says.

    A guest that floods, or sends garbage or endless lines, is not listened to any more; its run goes on.
    """

    def __init__(self, stream: socket.socket, limits: Limits | None = None) -> None:
        self._stream = stream
        self._limits = limits or Limits()

    async def listen(self, receive: Callable[[GuestMessage], None]) -> str | None:
        """Until the guest closes the channel (None) or has lost its right to it (why)."""
        lines = LineBuffer()
        try:
            while data := await self._read():
                for line in lines.feed(data):
                    message = decode(line)
                    if why := self._limits.admit(line, message):
                        return why
                    if message is not None:
                        receive(message)
        except Overlong:
            return "it sends a line without end"
        return None

    async def discard(self) -> None:
        """Read on without listening, slowly, until the guest closes the channel.

        Whoever writes to a channel that nobody reads, or that is closed, waits for ever in the guest's kernel; that
        would hold up an honest agent beside a flood, and with it the end of its job.
        """
        while await self._read():  # noqa: ASYNC110 a pace, not a poll
            await asyncio.sleep(_DISCARD_SECONDS)

    async def _read(self) -> bytes:
        # Reading does not wait while there is more: a guest that never stops must not keep the loop to itself.
        await asyncio.sleep(0)
        try:
            return await asyncio.get_running_loop().sock_recv(self._stream, _CHUNK)
        except OSError:
            return b""

    async def send(self, message: bytes) -> bool:
        """Whether the message was taken within 30 s; a guest that reads nothing cannot hold up its host."""
        try:
            async with asyncio.timeout(_WRITE_SECONDS):
                await asyncio.get_running_loop().sock_sendall(self._stream, message)
        except (OSError, TimeoutError):
            return False
        return True
