"""The words of the guest contract, checked at the door. No I/O here."""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

LINE_LIMIT = 64 * 1024
"""Bytes of the longest line a guest may send, its end included."""

_ENTROPY_BYTES = 64


def _one_line(text: str) -> str:
    # What a guest says must not look like several lines of ours.
    return "".join(char if char.isprintable() or char == "\t" else "\N{REPLACEMENT CHARACTER}" for char in text)


Text = Annotated[str, StringConstraints(max_length=LINE_LIMIT), AfterValidator(_one_line)]
Short = Annotated[str, StringConstraints(max_length=1024), AfterValidator(_one_line)]


class _Message(BaseModel):
    # A newer agent may say more than we know.
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class Ready(_Message):
    """The agent waits for its registration."""

    type: Literal["ready"]
    agent: Literal[1]
    ssh_host_key: Short = Field(default="", alias="ssh-host-key")


class Started(_Message):
    """The registration arrived whole and the listener is being started."""

    type: Literal["started"]


class HostKey(_Message):
    """The key of its SSH server, for a guest that makes one while it boots: before the listener is started."""

    type: Literal["ssh-host-key"]
    key: Short


class Refused(_Message):
    """The agent will not start a listener."""

    type: Literal["refused"]
    why: Short


class JobStarted(_Message):
    """The listener has a job."""

    type: Literal["job-started"]
    job: Short = ""


class JobFinished(_Message):
    """The listener says that its job is over."""

    type: Literal["job-finished"]
    result: Short = ""


class Exited(_Message):
    """The listener ended; the codes are those of the runner's Constants.ReturnCode, and 100 + the job's result."""

    type: Literal["exited"]
    code: int = Field(ge=0, le=255)


class Log(_Message):
    """One line of output."""

    type: Literal["log"]
    stream: Literal["runner", "agent"]
    text: Text


GuestMessage = Ready | Started | HostKey | Refused | JobStarted | JobFinished | Exited | Log

_ADAPTER: TypeAdapter[GuestMessage] = TypeAdapter(Annotated[GuestMessage, Field(discriminator="type")])


def decode(line: bytes) -> GuestMessage | None:
    """The message in one line, or None for anything that is not one."""
    try:
        return _ADAPTER.validate_json(line.decode("utf-8", errors="replace"))
    except ValidationError:
        return None


@dataclass(frozen=True)
class Start:
    """What the host sends once, after `ready`."""

    jitconfig: str
    time: int
    """Seconds since 1970, filled in when the message is written."""
    entropy: bytes
    hostname: str
    environment: Mapping[str, str]
    keep_running: bool = False
    authorized_keys: str = ""

    def encode(self) -> bytes:
        """`start`, then `key base64-value` lines, then an empty line: a shell reads it without parsing JSON."""
        assignments = "\n".join(f"{name}={value}" for name, value in self.environment.items())
        fields = {
            "jitconfig": self.jitconfig.encode(),
            "sha256": hashlib.sha256(self.jitconfig.encode()).hexdigest().encode(),
            "time": str(self.time).encode(),
            "entropy": self.entropy,
            "hostname": self.hostname.encode(),
            "env": assignments.encode(),
            "keep-running": b"1" if self.keep_running else b"",
            "authorized-keys": self.authorized_keys.encode(),
        }
        lines = [b"%s %s\n" % (key.encode(), base64.b64encode(value)) for key, value in fields.items() if value]
        return b"start\n" + b"".join(lines) + b"\n"


POWER_OFF = b"power-off\n\n"


class LineBuffer:
    """Cuts a stream into lines of bounded length.

    Raises Overlong once a line exceeds LINE_LIMIT, whether or not its end ever comes.
    """

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The lines completed by `data`, without their ends."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) >= LINE_LIMIT or any(len(line) >= LINE_LIMIT for line in lines):
            raise Overlong
        return lines


class Overlong(Exception):
    """A line of the guest is longer than the contract allows."""
