"""Firecracker's two sockets: its API, and the way to the guest's."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from ghrunner_vm.connections import beside
from ghrunner_vm.errors import InfrastructureError
from ghrunner_vm.vm.firecracker import vsock
from ghrunner_vm.vm.firecracker.api import Api

_SECONDS = 10.0


@contextlib.contextmanager
def answering(path: Path, answer: bytes) -> Iterator[list[bytes]]:
    """One request is answered so; it is kept."""
    asked: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()

        def serve() -> None:
            with contextlib.suppress(OSError):
                came, _ = listening.accept()
                with came:
                    asked.append(came.recv(4096))
                    came.sendall(answer)
                    came.shutdown(socket.SHUT_WR)
                    while came.recv(4096):  # the rest of the request, whose sender must not find nobody
                        continue

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield asked
        finally:
            thread.join(_SECONDS)


def test_what_the_machine_does(tmp_path: Path) -> None:
    body = b'{"id":"demo","state":"Running","vmm_version":"1.12.1"}'
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    with answering(tmp_path / "s", head + body) as asked:
        assert Api(str(tmp_path / "s")).state() == "Running"
    assert asked[0].startswith(b"GET / HTTP/1.1\r\n")


def test_the_keys(tmp_path: Path) -> None:
    with answering(tmp_path / "s", b"HTTP/1.1 204 No Content\r\n\r\n") as asked:
        Api(str(tmp_path / "s")).ctrl_alt_del()
    assert asked[0].startswith(b"PUT /actions HTTP/1.1\r\n")


def test_its_own_words_tell_why_it_refuses(tmp_path: Path) -> None:
    body = b'{"fault_message":"The requested operation is not supported."}'
    head = b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\n\r\n" % len(body)
    with answering(tmp_path / "s", head + body), pytest.raises(InfrastructureError) as caught:
        Api(str(tmp_path / "s")).ctrl_alt_del()
    assert caught.value.details == "The requested operation is not supported."


@pytest.mark.parametrize("answer", [b"", b"hello\r\n\r\n"])
def test_what_is_no_answer(tmp_path: Path, answer: bytes) -> None:
    with answering(tmp_path / "s", answer), pytest.raises((InfrastructureError, OSError)):
        Api(str(tmp_path / "s")).state()


# ---- the guest's sockets ----


@contextlib.asynccontextmanager
async def guest(path: Path, refusals: int = 0) -> AsyncIterator[list[bytes]]:
    """What Firecracker's socket does for a guest that says back what it hears, after so many refusals."""
    asked: list[bytes] = []
    served: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        if len(asked) > refusals:
            writer.write(b"OK 1073741824\nready\n")
            while data := await reader.read(100):
                writer.write(data)
        writer.close()
        await writer.wait_closed()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(asyncio.create_task(serve(reader, writer)))

    async with await asyncio.start_unix_server(accept, path):
        yield asked
    await asyncio.wait_for(asyncio.gather(*served, return_exceptions=True), _SECONDS)


def test_a_stream_begins_after_the_greeting(tmp_path: Path) -> None:
    async def go() -> bytes:
        async with guest(tmp_path / "s") as asked:
            with await vsock.connect(str(tmp_path / "s"), 1024) as stream:
                said = await asyncio.get_running_loop().sock_recv(stream, 100)
            assert asked == [b"CONNECT 1024\n"]
            return said

    assert asyncio.run(go()) == b"ready\n"


def test_a_guest_that_does_not_listen(tmp_path: Path) -> None:
    async def go() -> None:
        async with guest(tmp_path / "s", refusals=1):
            await vsock.connect(str(tmp_path / "s"), 22)

    with pytest.raises(ConnectionRefusedError):
        asyncio.run(go())


def test_the_agent_is_found_once_it_listens(tmp_path: Path) -> None:
    async def go() -> tuple[bytes, int]:
        ours, theirs = socket.socketpair()
        for one in (ours, theirs):
            one.setblocking(False)
        with ours, theirs:
            async with (
                guest(tmp_path / "s", refusals=3) as asked,
                beside(vsock.carry(str(tmp_path / "s"), 1024, theirs)),
                asyncio.timeout(_SECONDS),
            ):
                loop = asyncio.get_running_loop()
                said = await loop.sock_recv(ours, 100)
                await loop.sock_sendall(ours, b"start\n")
                while not said.endswith(b"start\n"):
                    said += await loop.sock_recv(ours, 100)
                return said, len(asked)

    assert asyncio.run(go()) == (b"ready\nstart\n", 4)


def test_a_port_of_the_loopback_leads_to_the_guest(tmp_path: Path) -> None:
    async def go() -> bytes:
        async with (
            guest(tmp_path / "s"),
            vsock.forwarded(0, str(tmp_path / "s"), 22) as port,
            asyncio.timeout(_SECONDS),
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            said = await reader.readline()
            writer.close()
            return said

    assert asyncio.run(go()) == b"ready\n"


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    async def go() -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            async with vsock.forwarded(other.getsockname()[1], str(tmp_path / "s"), 22):
                pass

    with pytest.raises(InfrastructureError, match="is taken"):
        asyncio.run(go())
