"""What a service tells systemd of itself (sd_notify(3)): datagrams to the socket that NOTIFY_SOCKET names."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Mapping


class Notifier:
    """Says nothing if no service manager listens; and never fails, since telling is not worth a run."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        name = environ.get("NOTIFY_SOCKET", "")
        # An abstract socket is written with an @ in place of its NUL (unix(7)).
        self._address = f"\0{name[1:]}" if name.startswith("@") else name
        self._watchdog = _watchdog_seconds(environ)

    def say(self, **words: str) -> None:
        """Send assignments such as READY="1" or STATUS="busy"."""
        if not self._address:
            return
        message = "\n".join(f"{key}={' '.join(value.split())}" for key, value in words.items())
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto(message.encode(), self._address)

    @contextlib.asynccontextmanager
    async def alive(self) -> AsyncIterator[None]:
        """Tell the watchdog, as often as it wants, that this event loop goes round."""
        if self._watchdog is None:
            yield
            return
        beating = asyncio.create_task(self._beat(self._watchdog / 2))
        try:
            yield
        finally:
            beating.cancel()

    async def _beat(self, seconds: float) -> None:
        while True:
            self.say(WATCHDOG="1")
            await asyncio.sleep(seconds)


def _watchdog_seconds(environ: Mapping[str, str]) -> float | None:
    """How long the service manager waits for a sign of life; None if it watches another process or none."""
    microseconds, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not microseconds.isdecimal() or int(microseconds) == 0 or pid not in ("", str(os.getpid())):
        return None
    return int(microseconds) / 1e6
