"""The control socket of a run: JSON lines in, JSON lines out, for the run's own user and root only."""

import asyncio
import contextlib
import json
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from ghrunner_vm.errors import GhvmError, told

_LINE = 4096
_IDLE_SECONDS = 60.0
_UCRED = struct.Struct("3i")


class _Request(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Status(_Request):
    """`{"do": "status"}` answers the run's record."""

    do: Literal["status"]


class Stop(_Request):
    """`{"do": "stop"}` drains; `"how": "now"` powers off whatever runs; `"force"` does not even wait for that."""

    do: Literal["stop"]
    how: Literal["drain", "now", "force"] = "drain"


class OpenSsh(_Request):
    """`{"do": "ssh"}` answers the port on this host's loopback that leads to the guest's SSH."""

    do: Literal["ssh"]


Request = Status | Stop | OpenSsh
_ADAPTER: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator="do")])

Handler = Callable[[Request], Awaitable[Mapping[str, object]]]


@contextlib.asynccontextmanager
async def control_socket(path: Path, handle: Handler) -> AsyncIterator[None]:
    """Answer on `path` until the end of the block; the socket is then gone."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)

    talks: set[asyncio.Task[None]] = set()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if _peer(writer) in (0, os.geteuid()):
            await _converse(reader, writer, handle)

    def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(talk(reader, writer))
        talks.add(task)
        task.add_done_callback(talks.discard)
        task.add_done_callback(lambda _: writer.close())  # also when it is cancelled before its first step

    path.unlink(missing_ok=True)
    server = await asyncio.start_unix_server(serve, path, limit=_LINE)
    path.chmod(0o600)
    try:
        yield
    finally:
        server.close()
        path.unlink(missing_ok=True)
        for task in talks:
            task.cancel()
        await asyncio.gather(*talks, return_exceptions=True)


async def _converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handle: Handler) -> None:
    # A line too long or a peer that says nothing ends the conversation.
    with contextlib.suppress(ValueError, TimeoutError, OSError):
        while True:
            async with asyncio.timeout(_IDLE_SECONDS):
                line = await reader.readline()
            if not line:
                return
            writer.write(json.dumps(await _answer(line, handle)).encode() + b"\n")
            await writer.drain()


async def _answer(line: bytes, handle: Handler) -> Mapping[str, object]:
    try:
        request = _ADAPTER.validate_json(line)
    except ValidationError as error:
        return {"error": "unknown request", "details": str(error.errors()[0]["msg"])}
    try:
        return await handle(request)
    except (GhvmError, OSError) as error:
        known = told(error)
        return {"error": known.brief, "details": known.details, "resolution": known.resolution}


def _peer(writer: asyncio.StreamWriter) -> int:
    connection = writer.get_extra_info("socket")
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return int(_UCRED.unpack(credentials)[1])
