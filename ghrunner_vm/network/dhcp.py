"""DHCP for the one guest of a namespace: the same lease, whatever it asks for (RFC 2131 and RFC 2132)."""

import asyncio
import contextlib
import socket
import struct
from dataclasses import KW_ONLY, dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv4Network

CLIENT_PORT = 68
BROADCAST = IPv4Address("255.255.255.255")
ANSWERS_A_SECOND = 50

_NOWHERE = IPv4Address(0)
_HEAD = struct.Struct("!BBBB4sHH4s4s4s4s16s192x4s")
_COOKIE = b"\x63\x82\x53\x63"
_REQUEST, _REPLY = 1, 2
_ETHERNET, _MAC_BYTES = 1, 6
_BROADCAST_FLAG = 0x8000
_LEAST_BYTES = 300  # of BOOTP (RFC 1542, 2.1); there are clients that insist
_MOST_BYTES = 1500
_SO_NO_CHECK = 11  # asm-generic/socket.h


class Kind(IntEnum):
    """Types of messages, RFC 2132 9.6."""

    DISCOVER = 1
    OFFER = 2
    REQUEST = 3
    DECLINE = 4
    ACK = 5
    NAK = 6
    RELEASE = 7
    INFORM = 8


class _Option(IntEnum):
    PAD = 0
    MASK = 1
    ROUTER = 3
    NAME_SERVER = 6
    MTU = 26
    REQUESTED_ADDRESS = 50
    LEASE_SECONDS = 51
    KIND = 53
    SERVER = 54
    RENEWAL_SECONDS = 58
    REBINDING_SECONDS = 59
    CLIENT_ID = 61
    END = 255


@dataclass(frozen=True)
class Lease:
    """What the guest is told, and the address of its network card, which alone is answered."""

    address: IPv4Address
    gateway: IPv4Address
    """Also the server's identifier."""
    name_server: IPv4Address
    _: KW_ONLY
    prefix: int = 24
    mtu: int
    seconds: int = 86_400
    mac: bytes

    @property
    def network(self) -> IPv4Network:
        """The guest's network."""
        return IPv4Network((self.address, self.prefix), strict=False)


@dataclass(frozen=True)
class Request:
    """What a client says, as far as we care."""

    kind: Kind
    transaction: bytes
    flags: int
    client: IPv4Address
    """The address that it has already, or 0.0.0.0 (ciaddr)."""
    hardware: bytes
    """chaddr, with its padding."""
    options: dict[int, bytes]

    def address(self, option: int) -> IPv4Address | None:
        """The address that an option holds; None if it is not there or holds something else."""
        value = self.options.get(option, b"")
        return IPv4Address(value) if len(value) == 4 else None

    @property
    def wanted(self) -> IPv4Address | None:
        """The address that it wants to have or to keep, RFC 2131 4.3.2."""
        if self.client != _NOWHERE:
            return self.client
        return self.address(_Option.REQUESTED_ADDRESS)


@dataclass(frozen=True)
class Answer:
    """A message to port 68 of an address."""

    message: bytes
    destination: IPv4Address


def parse(message: bytes) -> Request | None:
    """The request in a message, or None for anything that is not one, or that came by a relay."""
    try:
        head, options = _HEAD.unpack_from(message), _options(message[_HEAD.size :])
        kind = Kind(int.from_bytes(options.get(_Option.KIND, b""), "big"))
    except (struct.error, ValueError):
        return None
    operation, hardware_type, hardware_bytes, _, transaction, _, flags, client, _, _, relay, hardware, cookie = head
    if (operation, hardware_type, hardware_bytes, cookie) != (_REQUEST, _ETHERNET, _MAC_BYTES, _COOKIE) or any(relay):
        return None
    return Request(kind, transaction, flags, IPv4Address(client), hardware, options)


def answer(request: Request, lease: Lease) -> Answer | None:
    """What a request gets; None: silence."""
    if request.hardware[:_MAC_BYTES] != lease.mac:
        return None
    match request.kind:
        case Kind.DISCOVER:
            return _granted(Kind.OFFER, request, lease)
        case Kind.REQUEST:
            return _requested(request, lease)
        case Kind.INFORM if request.client in lease.network:
            return Answer(_reply(Kind.ACK, request, lease, _configuration(lease)), request.client)
        case _:
            return None


def _requested(request: Request, lease: Lease) -> Answer | None:
    server = request.address(_Option.SERVER)
    if request.wanted is None or server not in (None, lease.gateway):
        return None
    if request.wanted == lease.address:
        return _granted(Kind.ACK, request, lease)
    # RFC 2131 4.1: always broadcast, since the client may be in another network than it thinks.
    return Answer(_reply(Kind.NAK, request, lease, {}), BROADCAST)


def _granted(kind: Kind, request: Request, lease: Lease) -> Answer:
    # A client that has an address, or that reads from the network card, hears what is sent to it; others say that they
    # do not. Where to is never the guest's choice.
    deaf = request.flags & _BROADCAST_FLAG and request.client == _NOWHERE
    options = {
        _Option.LEASE_SECONDS: lease.seconds.to_bytes(4, "big"),
        _Option.RENEWAL_SECONDS: (lease.seconds // 2).to_bytes(4, "big"),
        _Option.REBINDING_SECONDS: (lease.seconds * 7 // 8).to_bytes(4, "big"),
        **_configuration(lease),
    }
    message = _reply(kind, request, lease, options, lease.address)
    return Answer(message, BROADCAST if deaf else lease.address)


def _configuration(lease: Lease) -> dict[int, bytes]:
    return {
        _Option.MASK: lease.network.netmask.packed,
        _Option.ROUTER: lease.gateway.packed,
        _Option.NAME_SERVER: lease.name_server.packed,
        _Option.MTU: lease.mtu.to_bytes(2, "big"),
    }


def _reply(
    kind: Kind, request: Request, lease: Lease, options: dict[int, bytes], yours: IPv4Address = _NOWHERE
) -> bytes:
    client = request.client if kind is Kind.ACK else _NOWHERE
    addresses = (client.packed, yours.packed, _NOWHERE.packed, _NOWHERE.packed)
    head = _HEAD.pack(
        *(_REPLY, _ETHERNET, _MAC_BYTES, 0, request.transaction, 0, request.flags),
        *(*addresses, request.hardware, _COOKIE),
    )
    told = {_Option.KIND: bytes([kind]), _Option.SERVER: lease.gateway.packed, **options}
    identifier = request.options.get(_Option.CLIENT_ID, b"")
    if 2 <= len(identifier) <= 255:
        told[_Option.CLIENT_ID] = identifier  # RFC 6842: a client may tell by it which answers are its own
    body = b"".join(bytes([code, len(value)]) + value for code, value in told.items())
    return (head + body + bytes([_Option.END])).ljust(_LEAST_BYTES, b"\0")


def _options(area: bytes) -> dict[int, bytes]:
    """Each option's value; the parts of a long one are joined (RFC 3396). Raises ValueError if one is cut off."""
    options: dict[int, bytes] = {}
    at = 0
    while at < len(area) and area[at] != _Option.END:
        if area[at] == _Option.PAD:
            at += 1
            continue
        value = area[at + 2 : at + 2 + area[at + 1]] if at + 1 < len(area) else b""
        if at + 1 >= len(area) or len(value) < area[at + 1]:
            raise ValueError("an option is cut off")
        options[area[at]] = options.get(area[at], b"") + value
        at += 2 + len(value)
    return options


async def serve_dhcp(
    sock: socket.socket, lease: Lease, *, client_port: int = CLIENT_PORT, answers_a_second: int = ANSWERS_A_SECOND
) -> None:
    """Answer what comes to a non-blocking UDP socket, until cancelled. What is too much gets no answer."""
    # On its way to a guest a checksum is only begun: no wire follows that could spoil the rest. The guest's kernel
    # knows, but a client that reads from the network card itself does not, and drops what looks spoilt. No checksum at
    # all (RFC 768) suits both.
    sock.setsockopt(socket.SOL_SOCKET, _SO_NO_CHECK, 1)
    loop = asyncio.get_running_loop()
    second, answers = loop.time(), 0
    while True:
        await asyncio.sleep(0)  # reading does not wait while there is more: a flood must not keep the loop to itself
        message = await loop.sock_recv(sock, _MOST_BYTES)
        if loop.time() - second >= 1:
            second, answers = loop.time(), 0
        request = parse(message) if answers < answers_a_second else None
        reply = answer(request, lease) if request is not None else None
        if reply is not None:
            answers += 1
            with contextlib.suppress(OSError):  # it may be lost like any other datagram
                sock.sendto(reply.message, (str(reply.destination), client_port))
