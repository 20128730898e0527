"""The guest's name server, over bytes, and over real sockets with real resolvers behind it."""

import asyncio
import contextlib
import functools
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ghrunner_vm.network import dns_message
from ghrunner_vm.network.dns import Patience, Upstream, Watcher, serve_dns
from ghrunner_vm.network.dns_message import AAAA, A, Code, Malformed, Question, parse_answer, parse_query

SECONDS = 30
CNAME, OPT, TXT = 5, 41, 16
OURS, FIRST, SECOND = "127.0.0.1", "127.0.0.2", "127.0.0.3"
ENDLESS = Patience(server=SECONDS, query=SECONDS, connection=SECONDS)
QUICK = Patience(server=0.05, query=0.2, connection=0.2)
ADDRESS = IPv4Address("192.0.2.7")
A_RECORD = (A, 300, ADDRESS.packed)

Record = tuple[int, int, bytes]
"""Type, time to live, data."""


class Permissive:
    """A watcher that lets everything pass."""

    def permits(self, _name: str, /) -> bool:
        return True

    async def answered(self, _name: str, _addresses: Sequence[tuple[IPv4Address, int]], /) -> None:
        return


def encoded(name: str) -> bytes:
    labels = [label.encode() for label in name.split(".") if label]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def query(
    name: str = "example.com", kind: int = A, *, id_: int = 7, flags: int = 0x100, extended: bool = False
) -> bytes:
    header = struct.pack("!6H", id_, flags, 1, 0, 0, int(extended))
    opt = b"\0" + struct.pack("!2HIH", OPT, 4096, 0, 0) if extended else b""
    return header + encoded(name) + struct.pack("!2H", kind, 1) + opt


def answered(message: bytes, records: Sequence[Record] = (), code: int = 0) -> bytes:
    """The answer to a query, with names compressed as servers do it."""
    question = message[12 : message.index(b"\0", 12) + 5]
    header = message[:2] + struct.pack("!5H", 0x8180 | code, 1, len(records), 0, 0)
    body = b"".join(b"\xc0\x0c" + struct.pack("!2HIH", kind, 1, ttl, len(data)) + data for kind, ttl, data in records)
    return header + question + body


LABELS = st.lists(st.from_regex(r"[a-z0-9_-]{1,20}", fullmatch=True), max_size=10)
HEADER_FLAGS = st.integers(0, 0xFFFF)


@given(st.binary())
@example(query()[:12] + b"\xc0\x0c\0\x01\0\x01")  # a name that points at itself
@example(answered(query()) + b"\xc0\x0c")
def test_no_bytes_raise_anything_but_malformed(data: bytes) -> None:
    for parse in (parse_query, parse_answer):
        with contextlib.suppress(Malformed):
            parse(data)


@given(st.integers(0, 65535), HEADER_FLAGS, st.lists(st.integers(0, 3), min_size=4, max_size=4), st.binary())
def test_no_bytes_behind_a_header_do_either(id_: int, flags: int, counts: list[int], data: bytes) -> None:
    for parse in (parse_query, parse_answer):
        with contextlib.suppress(Malformed):
            parse(struct.pack("!6H", id_, flags, *counts) + data)


@given(LABELS, st.integers(0, 65535), st.integers(0, 65535), st.booleans())
def test_a_query_is_read_as_it_was_built(labels: list[str], kind: int, id_: int, extended: bool) -> None:
    name = ".".join(labels)
    message = query(name, kind, id_=id_, extended=extended)
    parsed = parse_query(message)
    assert (parsed.question, parsed.extended, parsed.message) == (Question(name, kind), extended, message)


@given(LABELS, st.lists(st.tuples(st.ip_addresses(v=4), st.integers(0, 2**31 - 1))), st.booleans())
def test_an_answer_is_read_as_it_was_built(
    labels: list[str], addresses: list[tuple[IPv4Address, int]], alias: bool
) -> None:
    name = ".".join(labels)
    records = [(CNAME, 60, b"\xc0\x0c")] * alias + [(A, ttl, address.packed) for address, ttl in addresses]
    parsed = parse_answer(answered(query(name), records))
    assert (parsed.question, parsed.addresses, parsed.code) == (Question(name, A), tuple(addresses), Code.NOERROR)


@given(LABELS, st.integers(0, 65535), st.sampled_from(Code), st.booleans())
def test_a_reply_answers_its_query(labels: list[str], id_: int, code: Code, extended: bool) -> None:
    message = query(".".join(labels), id_=id_, extended=extended)
    reply = dns_message.reply(parse_query(message), code)
    parsed = parse_answer(reply)
    assert (parsed.question, parsed.code, parsed.addresses) == (parse_query(message).question, code, ())
    assert dns_message.identity(reply) == dns_message.identity(message)
    assert reply[2:4] == struct.pack("!H", 0x8180 | code)  # recursion was desired, and is available
    assert (b"\0" + struct.pack("!H", OPT) in reply[-11:]) == extended


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(query(flags=0x8180), id="an-answer"),
        pytest.param(query(flags=0x2800), id="an-update"),
        pytest.param(query() + b"\0", id="something-behind-its-end"),
        pytest.param(query(extended=True)[:-1], id="cut-off"),
        pytest.param(query()[:4] + b"\0\2" + query()[6:], id="two-questions"),
        pytest.param(query()[:6] + b"\0\1" + query()[8:], id="a-record-among-the-answers"),
        pytest.param(query(("a" * 63 + ".") * 4), id="a-name-too-long"),
        pytest.param(query()[:12] + b"\x40" + b"a" * 64 + b"\0\0\1\0\1", id="a-label-too-long"),
        pytest.param(query()[:12] + b"\xc0\0\0\1\0\1", id="a-pointer"),
        pytest.param(b"", id="empty"),
    ],
)
def test_what_is_no_query_is_malformed(message: bytes) -> None:
    with pytest.raises(Malformed):
        parse_query(message)


def test_a_name_cannot_pass_for_another() -> None:
    assert parse_query(query("Example.COM")).question.name == "example.com"
    strange = query()[:12] + b"\x0bexample.com\x03\n\xff\\\0\0\1\0\1"
    assert parse_query(strange).question.name == r"example\046com.\010\255\092"


def test_only_addresses_of_the_internet_count() -> None:
    records = [(A, 2**31, ADDRESS.packed), (A, 1, b"\1\2\3"), (AAAA, 1, bytes(16)), (TXT, 1, b"\3abc")]
    chaos = b"\xc0\x0c" + struct.pack("!2HIH", A, 3, 1, 4) + ADDRESS.packed
    message = answered(query(), records) + chaos
    message = message[:6] + struct.pack("!H", len(records) + 1) + message[8:]
    assert parse_answer(message).addresses == ((ADDRESS, 0),)


def test_servers_are_read_again_when_their_file_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    upstream = Upstream(path=path)
    assert upstream.servers() == ()
    path.write_text("# nameserver 9.9.9.9\nsearch example.com\nnameserver\nnameserver 192.0.2.1\n nameserver ::1 # x\n")
    assert upstream.servers() == (
        (socket.AF_INET, ("192.0.2.1", 53)),
        (socket.AF_INET6, ("::1", 53, 0, 0)),
    )
    path.write_bytes(
        b"nameserver localhost\nnameserver fe80::1%nowhere\nnameserver \xff\n" + b"nameserver 192.0.2.2\n" * 5
    )
    os.utime(path, ns=(1, 1))
    assert upstream.servers() == ((socket.AF_INET, ("192.0.2.2", 53)),) * 3
    path.unlink()
    assert upstream.servers() == ()


def test_servers_that_are_given_are_asked_instead(tmp_path: Path) -> None:
    assert Upstream((FIRST, SECOND), port=1, path=tmp_path).servers() == (
        (socket.AF_INET, (FIRST, 1)),
        (socket.AF_INET, (SECOND, 1)),
    )
    with pytest.raises(ValueError, match="localhost"):
        Upstream(("localhost",))


Answer = Callable[[bytes], Sequence[bytes]]
"""What a resolver sends for a query."""


def address(message: bytes) -> Sequence[bytes]:
    return [answered(message, [A_RECORD])]


def silence(_: bytes) -> Sequence[bytes]:
    return []


def failing(code: Code) -> Answer:
    return lambda message: [answered(message, code=code)]


class Resolver:
    """A name server, by UDP and by TCP."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked: list[bytes] = []
        self.meanwhile: Callable[[bytes, tuple[str, int]], None] = lambda _message, _source: None

    def take(self, message: bytes) -> Sequence[bytes]:
        self.asked.append(message)
        return self.answer(message)

    async def by_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                for message in self.take(await framed(reader)):
                    writer.write(len(message).to_bytes(2, "big") + message)
        writer.close()


class Datagrams(asyncio.DatagramProtocol):
    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._resolver.meanwhile(data, addr)
        for message in self._resolver.take(data):
            self._transport.sendto(message, addr)


async def framed(reader: asyncio.StreamReader) -> bytes:
    return await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))


class Scene:
    """The service, as a guest sees it."""

    def __init__(self, udp: socket.socket, tcp: socket.socket, guest: socket.socket) -> None:
        self._tcp = tcp
        self._guest = guest
        self.server = udp.getsockname()

    def send(self, message: bytes) -> None:
        self._guest.sendto(message, self.server)

    async def hear(self) -> bytes:
        return await asyncio.get_running_loop().sock_recv(self._guest, 65535)

    async def ask(self, message: bytes) -> bytes:
        self.send(message)
        return await self.hear()

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection(*self._tcp.getsockname())
        try:
            yield reader, writer
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def ask_by_tcp(self, message: bytes) -> bytes:
        async with self.connected() as (reader, writer):
            writer.write(sized(message))
            return await framed(reader)


def sized(message: bytes) -> bytes:
    return len(message).to_bytes(2, "big") + message


def bound(kind: socket.SocketKind, host: str, port: int = 0) -> socket.socket:
    made = socket.socket(socket.AF_INET, kind)
    made.setblocking(False)
    made.bind((host, port))
    if kind is socket.SOCK_STREAM:
        made.listen(100)
    return made


def a_port(hosts: Sequence[str]) -> tuple[int, list[tuple[socket.socket, socket.socket]]]:
    """A port that is free by UDP and by TCP at each of the hosts, and what is bound to it."""
    while True:
        with contextlib.ExitStack() as stack:
            port, pairs = 0, []
            with contextlib.suppress(OSError):
                for host in hosts:
                    tcp = stack.enter_context(bound(socket.SOCK_STREAM, host, port))
                    port = tcp.getsockname()[1]
                    pairs.append((stack.enter_context(bound(socket.SOCK_DGRAM, host, port)), tcp))
                stack.pop_all()
                return port, pairs


@contextlib.asynccontextmanager
async def resolving(answers: Sequence[Answer | None]) -> AsyncIterator[tuple[list[Resolver], Upstream]]:
    """Resolvers at addresses of their own; None: one that is not there."""
    hosts = (FIRST, SECOND)[: len(answers)]
    port, pairs = a_port(hosts) if hosts else (0, [])
    resolvers = []
    async with contextlib.AsyncExitStack() as stack:
        for answer, (udp, tcp) in zip(answers, pairs, strict=True):
            resolver = Resolver(answer or silence)
            resolvers.append(resolver)
            if answer is None:
                udp.close()
                tcp.close()
                continue
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_datagram_endpoint(functools.partial(Datagrams, resolver), sock=udp)
            stack.callback(transport.close)
            server = await asyncio.start_server(resolver.by_tcp, sock=tcp)
            stack.callback(server.close)
        yield resolvers, Upstream(hosts, port=port, path=Path("/nonexistent"))


Work = Callable[[Scene, list[Resolver]], Awaitable[None]]


def play(
    work: Work,
    *answers: Answer | None,
    watch: Watcher | None = None,
    patience: Patience = ENDLESS,
) -> list[str]:
    """What the service told."""
    told: list[str] = []

    async def served() -> None:
        async with resolving(answers) as (resolvers, upstream):
            with (
                bound(socket.SOCK_DGRAM, OURS) as udp,
                bound(socket.SOCK_STREAM, OURS) as tcp,
                bound(socket.SOCK_DGRAM, OURS) as guest,
            ):
                service = serve_dns(udp, tcp, upstream, watch or Permissive(), told.append, patience=patience)
                serving = asyncio.create_task(service)
                try:
                    await work(Scene(udp, tcp, guest), resolvers)
                    assert not serving.done()
                finally:
                    serving.cancel()
                    await asyncio.wait({serving})

    asyncio.run(asyncio.wait_for(served(), SECONDS))
    return told


def code(message: bytes) -> int:
    return parse_answer(message).code


def test_a_question_is_answered_with_its_own_id() -> None:
    async def work(scene: Scene, resolvers: list[Resolver]) -> None:
        for id_ in range(20):
            message = query(id_=id_, extended=True)
            assert await scene.ask(message) == answered(message, [A_RECORD])
        ids = [dns_message.identity(message) for message in resolvers[0].asked]
        assert len(set(ids)) > 15  # by chance
        assert {message[2:] for message in resolvers[0].asked} == {query(extended=True)[2:]}

    assert play(work, address) == []


def test_several_questions_are_answered_over_one_connection() -> None:
    async def work(scene: Scene, _: list[Resolver]) -> None:
        async with scene.connected() as (reader, writer):
            messages = [query(f"name{number}.example", id_=number) for number in range(20)]
            writer.write(b"".join(map(sized, messages)))
            writer.write_eof()  # and what is asked already is answered still
            answers = [await framed(reader) for _ in messages]
            assert sorted(answers) == sorted(answered(message, [A_RECORD]) for message in messages)
            assert await reader.read() == b""

    play(work, address)


def test_a_long_answer_passes_over_tcp() -> None:
    records = [(TXT, 1, bytes([255]) + b"x" * 255)] * 200

    async def work(scene: Scene, _: list[Resolver]) -> None:
        assert await scene.ask_by_tcp(query()) == answered(query(), records)

    play(work, lambda message: [answered(message, records)])


def test_an_address_of_ipv6_is_not_asked_for() -> None:
    async def work(scene: Scene, resolvers: list[Resolver]) -> None:
        answer = parse_answer(await scene.ask(query(kind=AAAA)))
        assert (answer.code, answer.addresses) == (Code.NOERROR, ())
        assert resolvers[0].asked == []

    play(work, address)


@pytest.mark.parametrize("by_tcp", [False, True])
def test_after_a_dead_server_the_next_one_is_asked(by_tcp: bool) -> None:
    async def work(scene: Scene, resolvers: list[Resolver]) -> None:
        assert code(await (scene.ask_by_tcp if by_tcp else scene.ask)(query())) == Code.NOERROR
        assert (len(resolvers[0].asked), len(resolvers[1].asked)) == (0, 1)

    assert play(work, None, address) == []


@pytest.mark.parametrize("by_tcp", [False, True])
def test_after_a_slow_server_the_next_one_is_asked(by_tcp: bool) -> None:
    async def work(scene: Scene, resolvers: list[Resolver]) -> None:
        assert code(await (scene.ask_by_tcp if by_tcp else scene.ask)(query())) == Code.NOERROR
        assert (len(resolvers[0].asked), len(resolvers[1].asked)) == (1, 1)

    play(work, silence, address, patience=Patience(server=0.05, query=SECONDS, connection=SECONDS))


def test_one_server_is_asked_again() -> None:
    asked: list[bytes] = []

    def second_time(message: bytes) -> Sequence[bytes]:
        asked.append(message)
        return address(message) if len(asked) > 1 else []

    async def work(scene: Scene, _: list[Resolver]) -> None:
        assert code(await scene.ask(query())) == Code.NOERROR

    play(work, second_time, patience=Patience(server=0.05, query=SECONDS, connection=SECONDS))


@pytest.mark.parametrize("answers", [(), (None,), (None, None), (silence,), (silence, None), (silence, silence)])
@pytest.mark.parametrize("by_tcp", [False, True])
def test_if_all_servers_are_dead_the_guest_is_told(answers: tuple[Answer | None, ...], by_tcp: bool) -> None:
    async def work(scene: Scene, _: list[Resolver]) -> None:
        for _number in range(2):
            assert code(await (scene.ask_by_tcp if by_tcp else scene.ask)(query())) == Code.SERVFAIL

    patience = Patience(server=0.05, query=0.2, connection=SECONDS)
    assert play(work, *answers, patience=patience) == ["no name server of this host answers the guest"]


def test_a_server_that_cannot_help_is_passed_over() -> None:
    async def work(scene: Scene, _: list[Resolver]) -> None:
        assert code(await scene.ask(query())) == Code.NOERROR

    play(work, failing(Code.REFUSED), address)


@pytest.mark.parametrize("second", [None, failing(Code.SERVFAIL)])
def test_if_none_can_help_the_guest_gets_its_word(second: Answer | None) -> None:
    async def work(scene: Scene, _: list[Resolver]) -> None:
        assert code(await scene.ask(query())) == Code.SERVFAIL

    assert play(work, failing(Code.SERVFAIL), second) == []


def test_a_name_that_is_not_there_is_an_answer() -> None:
    async def work(scene: Scene, resolvers: list[Resolver]) -> None:
        assert code(await scene.ask(query())) == Code.NXDOMAIN
        assert resolvers[1].asked == []

    play(work, failing(Code.NXDOMAIN), address)


def other_id(message: bytes) -> bytes:
    return bytes([message[0] ^ 1]) + address(message)[0][1:]


WRONG: list[Callable[[bytes], bytes]] = [
    other_id,
    lambda message: answered(message[:12] + query("example.net")[12:], [A_RECORD]),
    lambda message: answered(message[:12] + query(kind=TXT)[12:], [A_RECORD]),
    lambda message: message,
    lambda message: address(message)[0][:-1],
    lambda _: b"",
    lambda _: b"\0" * 600,
]


@pytest.mark.parametrize("by_tcp", [False, True])
def test_what_does_not_answer_the_question_is_ignored(by_tcp: bool) -> None:
    async def work(scene: Scene, resolvers: list[Resolver]) -> None:
        answer = await (scene.ask_by_tcp if by_tcp else scene.ask)(query())
        assert answer == answered(query(), [A_RECORD])
        assert len(resolvers[0].asked) == 1

    play(work, lambda message: [*(wrong(message) for wrong in WRONG), *address(message)])


def test_what_does_not_come_from_the_server_is_ignored() -> None:
    forged = answered(query(), [(A, 1, bytes(4))])

    def forge(message: bytes, source: tuple[str, int]) -> None:
        with bound(socket.SOCK_DGRAM, SECOND) as elsewhere:
            elsewhere.sendto(message[:2] + forged[2:], source)

    async def work(scene: Scene, resolvers: list[Resolver]) -> None:
        resolvers[0].meanwhile = forge
        assert await scene.ask(query()) == answered(query(), [A_RECORD])

    play(work, address)


class Log:
    """A watcher that permits one name, and remembers."""

    def __init__(self, permitted: str = "example.com") -> None:
        self.permitted = permitted
        self.seen: list[tuple[str, Sequence[tuple[IPv4Address, int]]]] = []

    def permits(self, name: str) -> bool:
        return name == self.permitted

    async def answered(self, name: str, addresses: Sequence[tuple[IPv4Address, int]]) -> None:
        self.seen.append((name, addresses))


@pytest.mark.parametrize("kind", [A, AAAA, TXT])
def test_a_name_that_is_not_permitted_is_refused_and_goes_nowhere(kind: int) -> None:
    async def work(scene: Scene, resolvers: list[Resolver]) -> None:
        assert code(await scene.ask(query("secret.example.net", kind))) == Code.REFUSED
        assert code(await scene.ask_by_tcp(query("secret.example.net", kind))) == Code.REFUSED
        assert resolvers[0].asked == []
        assert code(await scene.ask(query("EXAMPLE.com"))) == Code.NOERROR

    play(work, address, watch=Log())


def test_addresses_are_told_before_the_guest_has_them() -> None:
    asked, release = asyncio.Event(), asyncio.Event()

    class Slow(Log):
        async def answered(self, name: str, addresses: Sequence[tuple[IPv4Address, int]]) -> None:
            asked.set()
            await release.wait()
            await super().answered(name, addresses)

    watch = Slow()
    records = [(CNAME, 60, b"\3www\xc0\x0c"), A_RECORD, (A, 60, b"\xc0\0\2\x08")]

    async def work(scene: Scene, _: list[Resolver]) -> None:
        hearing = asyncio.create_task(scene.ask(query()))
        await asked.wait()
        assert code(await scene.ask_by_tcp(query("example.org"))) == Code.REFUSED  # others are answered meanwhile
        assert not hearing.done()
        assert watch.seen == []
        release.set()
        assert await hearing == answered(query(), records)
        assert watch.seen == [("example.com", ((ADDRESS, 300), (IPv4Address("192.0.2.8"), 60)))]

    play(work, lambda message: [answered(message, records)], watch=watch)


@pytest.mark.parametrize(
    "answer", [failing(Code.NXDOMAIN), lambda message: [answered(message, [A_RECORD], Code.NXDOMAIN)]]
)
def test_of_an_answer_without_addresses_nothing_is_told(answer: Answer) -> None:
    watch = Log()

    async def work(scene: Scene, _: list[Resolver]) -> None:
        await scene.ask(query())

    play(work, answer, watch=watch)
    assert watch.seen == []


def test_a_watcher_that_fails_costs_one_answer() -> None:
    class Broken(Log):
        async def answered(self, name: str, addresses: Sequence[tuple[IPv4Address, int]]) -> None:
            if not self.seen:
                await super().answered(name, addresses)
                raise KeyError(name)

    async def work(scene: Scene, _: list[Resolver]) -> None:
        assert code(await scene.ask(query())) == Code.SERVFAIL
        assert code(await scene.ask(query())) == Code.NOERROR

    assert play(work, address, watch=Broken()) == ["a name could not be looked after: KeyError"]


GARBAGE = (b"", b"\0", b"\xff" * 4096, b"\0" * 60_000, query()[:-1], query() + b"\0", query(flags=0x8100))


def test_malformed_datagrams_are_dropped() -> None:
    async def work(scene: Scene, resolvers: list[Resolver]) -> None:
        for garbage in GARBAGE:
            scene.send(garbage)
        assert await scene.ask(query()) == answered(query(), [A_RECORD])
        assert len(resolvers[0].asked) == 1

    assert play(work, address) == []


def test_malformed_messages_over_tcp_are_dropped() -> None:
    async def work(scene: Scene, resolvers: list[Resolver]) -> None:
        async with scene.connected() as (reader, writer):
            writer.write(b"".join(sized(garbage) for garbage in GARBAGE if len(garbage) <= 4096) + sized(query()))
            assert await framed(reader) == answered(query(), [A_RECORD])
        assert len(resolvers[0].asked) == 1

    assert play(work, address) == []


@pytest.mark.parametrize("begun", [b"", b"\0", b"\0\x20half", sized(b"\0" * 4097)], ids=len)
def test_a_connection_that_asks_nothing_is_closed(begun: bytes) -> None:
    async def work(scene: Scene, _: list[Resolver]) -> None:
        async with scene.connected() as (reader, writer):
            writer.write(begun)
            with contextlib.suppress(ConnectionResetError):  # what it sent was not read to its end
                assert await reader.read() == b""

    play(work, address, patience=QUICK)


def test_a_guest_that_takes_no_answers_loses_its_connection() -> None:
    records = [(TXT, 1, bytes([255]) + b"x" * 255)] * 200

    async def work(scene: Scene, _: list[Resolver]) -> None:
        async with scene.connected() as (reader, writer):
            with contextlib.suppress(ConnectionError):
                while not reader.at_eof():  # as many as it takes until the kernel takes no more answers
                    writer.write(sized(query()) * 100)
                    await writer.drain()
        assert await scene.ask(query("example.org"))

    play(work, lambda message: [answered(message, records)], patience=Patience(server=5, query=5, connection=0.2))


def test_too_many_connections_are_reset_and_the_others_served() -> None:
    async def work(scene: Scene, _: list[Resolver]) -> None:
        async with contextlib.AsyncExitStack() as stack:
            streams = [await stack.enter_async_context(scene.connected()) for _ in range(16)]
            for reader, writer in streams:
                writer.write(sized(query()))
                await framed(reader)
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError, BrokenPipeError)):
                await scene.ask_by_tcp(query())
            for reader, writer in streams:
                writer.write(sized(query()))
                await framed(reader)

    play(work, address)


def test_a_flood_keeps_only_so_many_questions_in_flight() -> None:
    held: list[bytes] = []
    most = asyncio.Event()

    def hold(message: bytes) -> Sequence[bytes]:
        held.append(message)
        if len(held) == 256:
            most.set()
        return []

    async def work(scene: Scene, resolvers: list[Resolver]) -> None:
        while not most.is_set():
            scene.send(query("flood.example"))
            await asyncio.sleep(0)
        for _ in range(100):
            scene.send(query("flood.example"))
            await asyncio.sleep(0)
        # Over TCP one that is too many is told so.
        assert code(await scene.ask_by_tcp(query("too.much.example"))) == Code.REFUSED
        assert len(resolvers[0].asked) == 256

    assert play(work, hold) == []


def test_after_a_flood_questions_are_answered_again() -> None:
    def flooded(message: bytes) -> Sequence[bytes]:
        return [] if b"flood" in message else address(message)

    async def work(scene: Scene, _: list[Resolver]) -> None:
        for _number in range(1000):
            scene.send(query("flood.example", id_=1))
            await asyncio.sleep(0)
        while dns_message.identity(answer := await scene.hear()) != b"\0\7" or code(answer) != Code.NOERROR:
            scene.send(query())  # with an answer that tells of one that has ended there is room for it

    assert play(work, flooded, patience=QUICK) == ["no name server of this host answers the guest"]
