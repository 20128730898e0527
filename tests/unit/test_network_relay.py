"""What a guest reaches of its host's loopback and what reaches its SSH, over real connections."""

import asyncio
import contextlib
import functools
import socket
import struct
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from ghrunner_vm.errors import InfrastructureError
from ghrunner_vm.network.relay import Sparing, forward, serve_relay

SECONDS = 30
MEBIBYTE = 1 << 20
BIG = 32 * MEBIBYTE

Visit = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def play(work: Awaitable[None]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(work, SECONDS)

    asyncio.run(bounded())


def listening(backlog: int = 100) -> socket.socket:
    made = socket.create_server(("127.0.0.1", 0), backlog=backlog)
    made.setblocking(False)
    return made


def port_of(sock: socket.socket) -> int:
    return int(sock.getsockname()[1])


@contextlib.asynccontextmanager
async def beside(service: Callable[[socket.socket], Awaitable[None]]) -> AsyncIterator[int]:
    """A service at a socket that listens, which must live until the end of the block. Yields its port."""
    with listening() as sock:

        async def serve() -> None:
            await service(sock)

        task = asyncio.create_task(serve())
        try:
            yield port_of(sock)
        finally:
            alive = not task.done()
            task.cancel()
            await asyncio.wait({task})
            assert alive


@contextlib.asynccontextmanager
async def host_service(visit: Visit) -> AsyncIterator[int]:
    """A service of the host's."""
    visits: set[asyncio.Task[None]] = set()

    async def whole(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visits.add(asyncio.current_task())  # type: ignore[arg-type]  # it is one
        try:
            await visit(reader, writer)
        except OSError:
            pass  # the relay's end is not what it expected
        finally:
            writer.close()

    server = await asyncio.start_server(whole, sock=listening())
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for one in visits:
            one.cancel()
        if visits:
            await asyncio.wait(visits)


@contextlib.asynccontextmanager
async def relayed(
    visit: Visit, tell: Callable[[str], None] | None = None, connections: int = 512
) -> AsyncIterator[int]:
    """A relay in front of a service of the host's."""
    async with host_service(visit) as target:
        relay = functools.partial(
            serve_relay, permitted=target.__eq__, tell=tell, port_of=lambda _: target, connections=connections
        )
        async with beside(relay) as port:
            yield port


@contextlib.asynccontextmanager
async def connected(port: int) -> AsyncIterator[Streams]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def is_reset(port: int) -> bool:
    try:
        async with connected(port) as (reader, _):
            await reader.read()
    except ConnectionResetError:
        return True
    return False


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(MEBIBYTE):
        writer.write(data)
        await writer.drain()


async def answer_after_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"%d bytes" % len(await reader.read()))


async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    reset_at_close(writer)


def reset_at_close(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def test_a_guest_and_a_service_talk() -> None:
    async def work() -> None:
        async with relayed(echo) as port, connected(port) as (reader, writer):
            for word in (b"one", b"another"):
                writer.write(word)
                assert await reader.readexactly(len(word)) == word

    play(work())


def test_one_side_may_end_before_the_other() -> None:
    async def work() -> None:
        async with relayed(answer_after_the_end) as port, connected(port) as (reader, writer):
            writer.write(b"x" * MEBIBYTE)
            writer.write_eof()
            assert await reader.read() == b"%d bytes" % MEBIBYTE

    play(work())


def test_no_more_is_read_than_the_other_side_takes() -> None:
    held = asyncio.Event()

    async def pour(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        chunk, written = bytes(MEBIBYTE), 0
        while written < BIG:
            writer.write(chunk)
            written += len(chunk)
            if writer.transport.get_write_buffer_size():
                held.set()  # the kernel takes no more
            await writer.drain()

    async def work() -> None:
        async with relayed(pour) as port, connected(port) as (reader, _):
            await held.wait()
            total = 0
            while data := await reader.read(MEBIBYTE):
                total += len(data)
            assert total == BIG

    tracemalloc.start()
    play(work())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < BIG / 4


def test_what_breaks_at_one_side_breaks_at_the_other() -> None:
    async def work() -> None:
        async with relayed(break_off) as port, connected(port) as (reader, writer):
            writer.write(b"x")
            with pytest.raises(ConnectionResetError):
                await reader.read()

    play(work())


def test_a_guest_that_breaks_off_is_noticed_by_the_service() -> None:
    begun, noticed = asyncio.Event(), asyncio.Event()

    async def wait(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        begun.set()
        with pytest.raises(ConnectionResetError):
            await reader.read()
        noticed.set()

    async def work() -> None:
        async with relayed(wait) as port:
            async with connected(port) as (_, writer):
                writer.write(b"x")
                await begun.wait()
                reset_at_close(writer)
            await noticed.wait()

    play(work())


def test_a_port_that_is_not_permitted_is_not_reached() -> None:
    told: list[str] = []

    async def work() -> None:
        async with host_service(echo) as target:
            relay = functools.partial(
                serve_relay, permitted=lambda _: False, tell=told.append, port_of=lambda _: target
            )
            async with beside(relay) as port:
                assert await is_reset(port)
                assert await is_reset(port)
            assert told == [f"the guest may not reach port {target} of this host's loopback"]

    play(work())


def test_a_connection_that_was_not_redirected_gets_nowhere() -> None:
    async def work() -> None:
        async with beside(functools.partial(serve_relay, permitted=lambda _: False)) as port:
            assert await is_reset(port)

    play(work())


def test_where_nobody_answers_the_connection_is_reset() -> None:
    told: list[str] = []

    async def work() -> None:
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            nobody = port_of(bound)
            relay = functools.partial(serve_relay, permitted=nobody.__eq__, tell=told.append, port_of=lambda _: nobody)
            async with beside(relay) as port:
                assert await is_reset(port)
        assert told == [f"the guest may reach port {nobody} of this host's loopback, but nobody answers there"]

    play(work())


def test_a_service_that_takes_no_connection_is_waited_for_only_so_long() -> None:
    async def work() -> None:
        with listening(backlog=0) as busy, socket.create_connection(("127.0.0.1", port_of(busy))):
            # Its queue is full now: the kernel leaves the next one without an answer.
            relay = functools.partial(
                serve_relay, permitted=lambda _: True, port_of=lambda _: port_of(busy), connect_seconds=0.05
            )
            async with beside(relay) as port:
                assert await is_reset(port)

    play(work())


def test_too_many_connections_are_reset_until_one_ends() -> None:
    async def work() -> None:
        async with relayed(echo, connections=2) as port, connected(port) as first:
            async with connected(port) as second:
                for reader, writer in (first, second):
                    writer.write(b"x")
                    assert await reader.readexactly(1) == b"x"
                assert await is_reset(port)
                second[1].write_eof()
                assert await second[0].read() == b""
            while not await echoes(port):
                pass

    play(work())


async def echoes(port: int) -> bool:
    try:
        async with connected(port) as (reader, writer):
            writer.write(b"x")
            return await reader.readexactly(1) == b"x"
    except (ConnectionResetError, asyncio.IncompleteReadError):
        return False


def test_a_flood_of_connections_holds_up_nobody() -> None:
    told: list[str] = []

    async def work() -> None:
        async with relayed(echo, told.append, connections=4) as port:
            await asyncio.gather(*(echoes(port) for _ in range(80)))
            while not await echoes(port):
                pass

    play(work())
    assert told == []


def test_connections_end_with_the_service() -> None:
    async def work() -> None:
        async with contextlib.AsyncExitStack() as client:
            async with relayed(echo) as port:
                reader, writer = await client.enter_async_context(connected(port))
                writer.write(b"x")
                assert await reader.readexactly(1) == b"x"
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""

    play(work())


def test_a_log_is_not_filled() -> None:
    told: list[str] = []
    sparing = Sparing(told.append)
    for number in range(100):
        sparing(f"thing {number}")
        sparing(f"thing {number}")
    assert len(told) == 20
    assert told[-1] == "thing 19; no more of these are told"


def test_ssh_is_forwarded_through_a_socket_of_the_guests_network() -> None:
    made: list[socket.socket] = []

    def connect() -> socket.socket:
        made.append(socket.socket())
        made[-1].setblocking(False)
        return made[-1]

    async def work() -> None:
        async with host_service(echo) as sshd:
            service = functools.partial(forward, connect=connect, to=("127.0.0.1", sshd))
            async with beside(service) as port:
                assert await echoes(port)
                assert await echoes(port)
        assert len(made) == 2
        assert all(sock.fileno() < 0 for sock in made)

    play(work())


def test_a_guest_that_cannot_be_reached_ends_a_connection_and_not_the_service() -> None:
    def connect() -> socket.socket:
        raise InfrastructureError("The network namespace does not answer")

    async def work() -> None:
        async with beside(functools.partial(forward, connect=connect)) as port:
            assert await is_reset(port)
            assert await is_reset(port)

    play(work())
