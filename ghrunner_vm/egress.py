"""Which destinations a guest may reach. Pure."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Literal

FORMS = (
    "an IPv4 address, a network as 10.1.0.0/16 or a name as *.example.com, perhaps with :PORT or :PORT-PORT; or @SET"
)
GUEST_NETWORK = IPv4Network("10.0.2.0/24")
"""The network that a guest is in, whatever the host's are: that of QEMU's user network."""
LOOPBACK = IPv4Network("127.0.0.0/8")
_HOST = IPv4Network("127.0.0.1/32")
PRIVATE = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",  # "this network", RFC 791
            "10.0.0.0/8",  # RFC 1918, as are 172.16 and 192.168
            "100.64.0.0/10",  # of carriers, RFC 6598
            "127.0.0.0/8",
            "168.63.129.16/32",  # what Azure tells a host, and only a host
            "169.254.0.0/16",  # link-local, where clouds keep the credentials of a host, RFC 3927
            "172.16.0.0/12",
            "192.0.0.0/24",  # of protocols, RFC 6890
            "192.168.0.0/16",
            "198.18.0.0/15",  # of benchmarks, RFC 2544; the way out of our namespaces is there as well
            "224.0.0.0/3",  # multicast, reserved, broadcast
        ),
    )
)
"""What is not the internet."""
ALL_PORTS = (0, 65535)

Mode = Literal["internet", "listed"]

_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(\*\.)?({_LABEL}\.)*[a-z]([a-z0-9-]{{0,61}}[a-z0-9])?", re.IGNORECASE | re.ASCII)
_PORTS = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")
_SET = re.compile(r"@([A-Za-z0-9][A-Za-z0-9_-]{0,62})")
_LONGEST_NAME = 253


@dataclass(frozen=True)
class Entry:
    """Destinations: a network or a name, and a range of TCP and UDP ports."""

    target: IPv4Network | str
    """A name in lower case; one that begins with `*.` stands for all names below it."""
    ports: tuple[int, int] = ALL_PORTS

    def __str__(self) -> str:
        low, high = self.ports
        target = str(self.target).removesuffix("/32")
        ports = "" if self.ports == ALL_PORTS else f":{low}" if low == high else f":{low}-{high}"
        return f"{target}{ports}"

    def covers(self, other: "Entry") -> bool:
        """Whether all destinations of `other` are among ours."""
        if isinstance(self.target, str) or isinstance(other.target, str):
            inside = self.target == other.target
        else:
            inside = other.target.subnet_of(self.target)
        return inside and self.ports[0] <= other.ports[0] and other.ports[1] <= self.ports[1]


@dataclass(frozen=True)
class Egress:
    """What a guest may reach. `deny` wins over `allow`, and `allow` over what is private.

    `internet`: all that is not private as well. `listed`: nothing else.
    """

    mode: Mode = "internet"
    allow: tuple[Entry, ...] = ()
    deny: tuple[Entry, ...] = ()

    @property
    def relayed(self) -> tuple[tuple[int, int], ...]:
        """Ranges of ports on the host's loopback that the guest may reach, at the gateway's address."""
        return tuple(entry.ports for entry in self.allow if _in(entry, LOOPBACK) and not self._denied(entry))

    @property
    def networks(self) -> tuple[Entry, ...]:
        """What is allowed by address, the host's loopback apart."""
        return tuple(
            entry for entry in self.allow if isinstance(entry.target, IPv4Network) and not _in(entry, LOOPBACK)
        )

    @property
    def names(self) -> tuple[Entry, ...]:
        """What is allowed by name."""
        return tuple(entry for entry in self.allow if isinstance(entry.target, str))

    def relays(self, port: int) -> bool:
        """Whether the guest may reach this port of the host's loopback."""
        one = Entry(_HOST, (port, port))
        return any(low <= port <= high for low, high in self.relayed) and not self._denied(one)

    def _denied(self, entry: Entry) -> bool:
        return any(denied.covers(entry) for denied in self.deny)


def parse(texts: Iterable[str], sets: Mapping[str, Sequence[str]] = {}) -> tuple[Entry, ...]:
    """The entries, with named sets in their place. Raises ValueError with words for a person."""
    entries: list[Entry] = []
    for text in texts:
        if match := _SET.fullmatch(text):
            if match[1] not in sets:
                raise ValueError(f"{text} names no set: there is {', '.join(sorted(sets)) or 'none'}")
            entries += [_entry(one) for one in sets[match[1]]]
        else:
            entries.append(_entry(text))
    return tuple(dict.fromkeys(entries))


def check(egress: Egress) -> None:
    """Raise ValueError, with words for a person, if a policy contradicts itself or can be of no use."""
    for entry in (*egress.allow, *egress.deny):
        if isinstance(entry.target, IPv4Network) and entry.target.subnet_of(GUEST_NETWORK):
            raise ValueError(f"{entry} is in {GUEST_NETWORK}, the guest's own network")
    for entry in egress.deny:
        if not isinstance(entry.target, IPv4Network):
            raise ValueError(  # noqa: TRY004 a person's value, whatever its type here
                f"{entry} cannot be denied by name: addresses have many names; deny its addresses"
            )
    for entry in egress.allow:
        _check_allowed(entry, egress)
    if egress.mode == "listed" and not egress.allow:
        raise ValueError("only what is listed may be reached, and nothing is listed: not even GitHub could be")


def _check_allowed(entry: Entry, egress: Egress) -> None:
    if egress._denied(entry):
        raise ValueError(f"{entry} is both allowed and denied")
    if _in(entry, LOOPBACK) and not entry.covers(Entry(_HOST, entry.ports)):
        raise ValueError(f"{entry}: of this host's loopback only 127.0.0.1 can be reached")


def is_name(text: str) -> bool:
    """Whether a text is one name, and not a pattern: what guests ask for may be anything."""
    return _NAME.fullmatch(text) is not None and not text.startswith("*") and len(text) <= _LONGEST_NAME


def _entry(text: str) -> Entry:
    target, colon, ports = text.partition(":")
    if not colon:
        return Entry(_target(target))
    return Entry(_target(target), _ports(ports, text))


def _target(text: str) -> IPv4Network | str:
    try:
        return IPv4Network(text)
    except ValueError as error:
        if "/" in text or not _NAME.fullmatch(text) or len(text) > _LONGEST_NAME:
            raise ValueError(f"{text[:100]!r} is neither a network nor a name ({error})"[:300]) from error
    return text.lower()


def _ports(text: str, entry: str) -> tuple[int, int]:
    match = _PORTS.fullmatch(text)
    low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= low <= high <= ALL_PORTS[1]:
        raise ValueError(f"{entry[:100]!r} has no port or range of ports from 1 to 65535 behind its colon")
    return low, high


def _in(entry: Entry, network: IPv4Network) -> bool:
    return isinstance(entry.target, IPv4Network) and entry.target.subnet_of(network)
