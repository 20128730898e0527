"""DHCP: what a client is told, over bytes and over a real socket."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghrunner_vm.network.dhcp import BROADCAST, Answer, Kind, Lease, answer, parse, serve_dhcp
from tests.virtual_time import VirtualLoop, run_virtual

MAC = bytes.fromhex("525400123456")
ADDRESS, GATEWAY, NAME_SERVER = map(IPv4Address, ("10.0.2.15", "10.0.2.2", "10.0.2.3"))
OTHER = IPv4Address("10.0.2.77")
NOWHERE = IPv4Address(0)
LEASE = Lease(ADDRESS, GATEWAY, NAME_SERVER, mtu=1400, mac=MAC)
BROADCAST_FLAG = 0x8000
MASK, ROUTER, DNS, MTU, REQUESTED, LEASED, KIND, SERVER, T1, T2, CLIENT_ID = 1, 3, 6, 26, 50, 51, 53, 54, 58, 59, 61


def message(
    kind: int,
    options: dict[int, bytes] | None = None,
    *,
    client: IPv4Address = NOWHERE,
    flags: int = 0,
    mac: bytes = MAC,
    relay: IPv4Address = NOWHERE,
) -> bytes:
    head = struct.pack("!BBBB4sHH", 1, 1, 6, 0, b"xid!", 3, flags)
    addresses = client.packed + bytes(8) + relay.packed
    told = b"".join(
        bytes([code, len(value)]) + value for code, value in {KIND: bytes([kind]), **(options or {})}.items()
    )
    return head + addresses + mac.ljust(16, b"\0") + bytes(192) + b"\x63\x82\x53\x63" + told + b"\xff"


class Told:
    """An answer, as a client reads it."""

    def __init__(self, data: bytes) -> None:
        self.operation, self.transaction, self.flags = data[0], data[4:8], int.from_bytes(data[10:12], "big")
        self.client, self.yours = IPv4Address(data[12:16]), IPv4Address(data[16:20])
        self.hardware, self.cookie = data[28:34], data[236:240]
        self.options = dict(_options(data[240:]))

    @property
    def kind(self) -> Kind:
        return Kind(self.options[KIND][0])


def _options(area: bytes) -> Iterator[tuple[int, bytes]]:
    while area[0] != 255:
        yield area[0], area[2 : 2 + area[1]]
        area = area[2 + area[1] :]


def asked(data: bytes) -> Answer | None:
    request = parse(data)
    return answer(request, LEASE) if request is not None else None


def told(data: bytes) -> tuple[Told, IPv4Address]:
    reply = asked(data)
    assert reply is not None
    return Told(reply.message), reply.destination


def test_a_discover_is_offered_the_lease() -> None:
    offer, destination = told(message(Kind.DISCOVER))
    assert (offer.operation, offer.transaction, offer.cookie) == (2, b"xid!", b"\x63\x82\x53\x63")
    assert (offer.kind, offer.yours, offer.hardware) == (Kind.OFFER, ADDRESS, MAC)
    assert destination == ADDRESS
    assert offer.options == {
        KIND: bytes([Kind.OFFER]),
        SERVER: GATEWAY.packed,
        LEASED: struct.pack("!I", 86_400),
        T1: struct.pack("!I", 43_200),
        T2: struct.pack("!I", 75_600),
        MASK: bytes([255, 255, 255, 0]),
        ROUTER: GATEWAY.packed,
        DNS: NAME_SERVER.packed,
        MTU: struct.pack("!H", 1400),
    }


# The states of a client, RFC 2131 4.3.2.
@pytest.mark.parametrize(
    ("options", "client"),
    [
        pytest.param({SERVER: GATEWAY.packed, REQUESTED: ADDRESS.packed}, NOWHERE, id="selecting"),
        pytest.param({REQUESTED: ADDRESS.packed}, NOWHERE, id="after-a-reboot"),
        pytest.param({}, ADDRESS, id="renewing"),
    ],
)
def test_a_request_for_the_address_gets_it(options: dict[int, bytes], client: IPv4Address) -> None:
    ack, destination = told(message(Kind.REQUEST, options, client=client))
    assert (ack.kind, ack.yours, ack.client, destination) == (Kind.ACK, ADDRESS, client, ADDRESS)
    assert {LEASED, T1, T2, MASK, ROUTER, DNS, MTU} <= set(ack.options)


@pytest.mark.parametrize(
    ("options", "client"),
    [
        pytest.param({SERVER: GATEWAY.packed, REQUESTED: OTHER.packed}, NOWHERE, id="selecting"),
        pytest.param({REQUESTED: OTHER.packed}, NOWHERE, id="after-a-reboot"),
        pytest.param({}, OTHER, id="renewing"),
    ],
)
def test_a_request_for_another_address_is_refused_to_all(options: dict[int, bytes], client: IPv4Address) -> None:
    nak, destination = told(message(Kind.REQUEST, options, client=client))
    assert (nak.kind, nak.yours, nak.client, destination) == (Kind.NAK, NOWHERE, NOWHERE, BROADCAST)
    assert nak.options == {KIND: bytes([Kind.NAK]), SERVER: GATEWAY.packed}


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(message(Kind.REQUEST, {SERVER: OTHER.packed, REQUESTED: ADDRESS.packed}), id="another-server"),
        pytest.param(message(Kind.REQUEST), id="no-address"),
        pytest.param(message(Kind.REQUEST, {REQUESTED: b"\n"}), id="half-an-address"),
        pytest.param(message(Kind.DECLINE, {REQUESTED: ADDRESS.packed}), id="decline"),
        pytest.param(message(Kind.RELEASE, client=ADDRESS), id="release"),
        pytest.param(message(Kind.OFFER), id="a-server's"),
        pytest.param(message(9), id="unknown"),
        pytest.param(message(Kind.DISCOVER, mac=bytes(6)), id="another-card"),
        pytest.param(message(Kind.DISCOVER, relay=OTHER), id="by-a-relay"),
        pytest.param(message(Kind.INFORM, client=IPv4Address("192.0.2.1")), id="inform-from-elsewhere"),
        pytest.param(message(Kind.DISCOVER).replace(b"\x63\x82\x53\x63", b"\0\0\0\0"), id="bootp"),
        pytest.param(message(Kind.DISCOVER)[:-1] + b"\x0c", id="option-without-length"),
        pytest.param(message(Kind.DISCOVER)[:-1] + b"\x0c\x09abc", id="option-cut-off"),
        pytest.param(message(Kind.DISCOVER)[:239], id="cut-off"),
        pytest.param(b"\2" + message(Kind.DISCOVER)[1:], id="a-reply"),
        pytest.param(b"", id="empty"),
    ],
)
def test_there_is_silence(data: bytes) -> None:
    assert asked(data) is None


def test_an_inform_gets_the_configuration_and_no_lease() -> None:
    ack, destination = told(message(Kind.INFORM, client=OTHER))
    assert (ack.kind, ack.yours, ack.client, destination) == (Kind.ACK, NOWHERE, OTHER, OTHER)
    assert {MASK, ROUTER, DNS, MTU} <= set(ack.options)
    assert not {LEASED, T1, T2} & set(ack.options)


def test_a_client_that_hears_only_broadcasts_gets_them() -> None:
    offer, destination = told(message(Kind.DISCOVER, flags=BROADCAST_FLAG))
    assert (destination, offer.flags) == (BROADCAST, BROADCAST_FLAG)
    # RFC 2131 4.1: one that has its address does hear.
    assert told(message(Kind.REQUEST, client=ADDRESS, flags=BROADCAST_FLAG))[1] == ADDRESS


def test_the_guest_does_not_choose_where_an_offer_goes() -> None:
    assert told(message(Kind.DISCOVER, client=IPv4Address("192.0.2.1")))[1] == ADDRESS


def test_a_client_finds_its_identifier_in_its_answers() -> None:
    offer, _ = told(message(Kind.DISCOVER, {CLIENT_ID: b"\xffabc"}))
    assert offer.options[CLIENT_ID] == b"\xffabc"


def test_an_identifier_that_fits_into_no_option_is_left_out() -> None:
    half = bytes([CLIENT_ID, 255]) + b"x" * 255
    offer, _ = told(message(Kind.DISCOVER)[:-1] + half + half + b"\xff")
    assert CLIENT_ID not in offer.options


def test_padding_and_an_absent_end_are_no_fault() -> None:
    data = message(Kind.DISCOVER)
    assert asked(data[:240] + bytes(5) + data[240:-1] + bytes(30)) is not None


def test_an_answer_is_as_long_as_bootp_wants() -> None:
    reply = asked(message(Kind.DISCOVER))
    assert reply is not None
    assert len(reply.message) >= 300


@given(st.binary(max_size=600))
def test_no_bytes_make_it_raise(data: bytes) -> None:
    asked(data)


@given(st.integers(0, 255), st.binary(max_size=400), st.integers(0, 0xFFFF), st.ip_addresses(v=4))
def test_no_options_make_it_raise(kind: int, options: bytes, flags: int, client: IPv4Address) -> None:
    reply = asked(message(kind, flags=flags, client=client)[:-1] + options)
    if reply is not None:
        assert reply.destination in (ADDRESS, BROADCAST) or Told(reply.message).client == reply.destination
        assert Told(reply.message).hardware == MAC


class Scene:
    """A server and a client on the loopback."""

    def __init__(self, server: socket.socket, client: socket.socket) -> None:
        self.server = server
        self._client = client

    def send(self, data: bytes) -> None:
        self._client.sendto(data, self.server.getsockname())

    async def hear(self) -> Told:
        return Told(await asyncio.get_running_loop().sock_recv(self._client, 1500))

    def hears_nothing(self) -> bool:
        try:
            self._client.recv(1500)
        except BlockingIOError:
            return True
        return False


def play(work: Callable[[Scene], Awaitable[None]], *, answers_a_second: int = 1000) -> None:
    async def served() -> None:
        with _udp() as server, _udp() as client:
            lease = Lease(IPv4Address("127.0.0.1"), GATEWAY, NAME_SERVER, mtu=1500, mac=MAC)
            port = client.getsockname()[1]
            service = serve_dhcp(server, lease, client_port=port, answers_a_second=answers_a_second)
            async with asyncio.TaskGroup() as group:
                serving = group.create_task(service)
                await work(Scene(server, client))
                assert not serving.done()
                serving.cancel()

    run_virtual(served())


@contextlib.contextmanager
def _udp() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.setblocking(False)
        made.bind(("127.0.0.1", 0))
        yield made


def test_a_client_gets_its_answer_at_its_port() -> None:
    async def work(scene: Scene) -> None:
        scene.send(message(Kind.DISCOVER))
        assert (await scene.hear()).kind is Kind.OFFER
        assert scene.server.getsockopt(socket.SOL_SOCKET, 11) == 1  # SO_NO_CHECK

    play(work)


def test_garbage_and_answers_that_cannot_be_sent_end_nothing() -> None:
    async def work(scene: Scene) -> None:
        for data in (b"", b"\0" * 1500, message(Kind.DISCOVER, flags=BROADCAST_FLAG)):  # we may not broadcast here
            scene.send(data)
        scene.send(message(Kind.DISCOVER))
        assert (await scene.hear()).kind is Kind.OFFER

    play(work)


def test_of_a_flood_only_so_much_is_answered() -> None:
    async def work(scene: Scene) -> None:
        for _ in range(50):
            scene.send(message(Kind.DISCOVER))
        for _ in range(3):
            await scene.hear()
        for _ in range(200):  # turns of the loop, of which each takes one datagram
            await asyncio.sleep(0)
        assert scene.hears_nothing()
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.jump(1)
        scene.send(message(Kind.DISCOVER))
        assert (await scene.hear()).kind is Kind.OFFER

    play(work, answers_a_second=3)
