"""The way out of a namespace through the host, as root: a pair of interfaces, a few addresses, a packet filter.

All of it carries the number of a lease, so nothing of two runs is the same. The pair goes with the namespace; the table
and the lease of a run that was killed wait for `sweep`, or for the next run of that number.
"""

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from ghrunner_vm import process
from ghrunner_vm.egress import Egress
from ghrunner_vm.errors import GhvmError, InfrastructureError, PermanentError
from ghrunner_vm.files import Locked, lock
from ghrunner_vm.network import conntrack, routing, rules
from ghrunner_vm.network.rules import Outside

TRANSIT_PREFIX = 30
_SECONDS = 10.0
_LEASES = "links"
_MOST = 4096
MTU = 1500
_RULES = 19800
_TABLES = 1_980_000
"""The numbers of our routing rules and tables begin here, see ip-rule(8)."""
_WIDE = 8
"""Routes of shorter prefixes are ways to the whole internet, whatever they are called."""
_WORLD = "198.41.0.4"
"""An address far away: that of a root name server."""
_LINK = re.compile(rf"{rules.LINK}\d+")


@dataclass(frozen=True)
class Host:
    """What the kernel tells of the host's networks."""

    uplink: str | None
    """The interface that leads out; None if there is none at present."""
    mtu: int
    routes: tuple[IPv4Network, ...]
    own: tuple[IPv4Address, ...] = ()
    """The host's addresses, its loopback's apart."""
    routers: tuple[str, ...] = ()
    """Where its routes lead to."""
    chosen: str | None = None
    """How an uplink leads out that a person has chosen: it may not be the one that the host itself uses."""


def host(uplink: str | None = None) -> Host:
    """The host's networks. Without `uplink` it is the one by which the host goes out."""
    routes = _json("ip", "-json", "-4", "route", "show", "table", "all")
    links = {str(link["ifname"]): link for link in _json("ip", "-json", "-4", "address", "show")}
    if uplink is not None and uplink not in links:
        raise PermanentError(
            f"There is no network interface {uplink}",
            details=f"There are {', '.join(sorted(links))}.",
            resolution="Set uplink to one of them, or leave it out: then it is the one of the default route.",
        )
    chosen = uplink or _default()
    way = None if uplink is None else _way(routes, uplink)
    networks = tuple(network for route in routes if (network := _network(route)) is not None)
    mtu = links[chosen]["mtu"] if chosen in links else MTU
    own = tuple(address for name, link in links.items() if not _LINK.fullmatch(name) for address in _addresses(link))
    routers = tuple(dict.fromkeys(str(route["gateway"]) for route in routes if "gateway" in route))
    return Host(chosen, mtu if isinstance(mtu, int) else MTU, networks, own, routers, way)


@dataclass(frozen=True)
class Way:
    """A way out of a namespace, by an interface that is called `up0` inside."""

    mtu: int
    furnish: tuple[str, ...] = ()
    """What is left to do inside, as lines for `ip -batch`."""


@contextlib.contextmanager
def lease(state: Path, pool: IPv4Network, networks: Sequence[IPv4Network]) -> Iterator[Outside]:
    """Addresses and an interface's name that no other run on this host has, and no network of the host's.

    Raises InfrastructureError when all are taken, and PermanentError when the host's networks take the whole pool.
    """
    directory = state / _LEASES
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    free = False
    for number in range(min(_MOST, 1 << (TRANSIT_PREFIX - pool.prefixlen))):
        transit = IPv4Network((int(pool.network_address) + number * 4, TRANSIT_PREFIX))
        if any(transit.overlaps(network) for network in networks if network.prefixlen >= _WIDE):
            continue
        free = True
        with contextlib.ExitStack() as stack:
            link = f"{rules.LINK}{number}"
            try:
                stack.enter_context(_leased(directory, link))
            except Locked:
                continue
            yield Outside(link, transit)
            return
    if free:
        raise InfrastructureError(f"All addresses of {pool} are in use by other runs")
    raise PermanentError(
        f"The host has networks of its own in {pool}",
        resolution="Set network-pool to a network that is used nowhere here, as 100.127.0.0/16.",
    )


@contextlib.contextmanager
def connected(outside: Outside, egress: Egress, known: Host, pid: int, state: Path) -> Iterator[Way]:
    """Connect the namespace of a process with the host."""
    link, host_end, our_end = outside.link, outside.transit[1], outside.transit[2]
    if link in _links():  # a run that was killed: its namespace may just be going
        with contextlib.suppress(GhvmError):
            _ip(f"link delete {link}")
    _ip(f"link add {link} mtu {known.mtu} type veth peer name {rules.UP} mtu {known.mtu} netns {pid}")
    try:
        routing.put(f"ipv6/conf/{link}/disable_ipv6", "1")
        routing.put(f"ipv4/conf/{link}/forwarding", "1")
        _nft(rules.outside(outside, egress))
        _ip(f"address add {host_end}/{TRANSIT_PREFIX} dev {link}\nlink set {link} up")
        if known.uplink is not None:
            routing.begin(known.uplink, state, _nft)
        if known.chosen is not None:
            _ip(_by_uplink(link, known.chosen))
        yield Way(
            known.mtu,
            (
                f"address add {our_end}/{TRANSIT_PREFIX} dev {rules.UP}",
                f"link set {rules.UP} up",
                f"route add default via {host_end}",
            ),
        )
    finally:
        _delete(link)
        with contextlib.suppress(GhvmError, OSError):
            sweep(state)


def _by_uplink(link: str, way: str) -> str:
    """Routing of its own for what comes from a guest: what the host has a closer route for, else a way."""
    table = _table(link)
    return "\n".join(
        (
            f"route replace default {way} table {table}",
            f"rule add iif {link} priority {_RULES} lookup main suppress_prefixlength 0",
            f"rule add iif {link} priority {_RULES + 1} lookup {table}",
        )
    )


def _delete(link: str) -> None:
    """Remove all of a run's on the host."""
    with contextlib.suppress(GhvmError):
        _ip(f"link delete {link}")  # it goes with the namespace as well, but the kernel takes its time for that
    with contextlib.suppress(GhvmError):
        _nft("\n".join(rules.removed(link)))
    for rule in _json("ip", "-json", "-4", "rule", "show"):
        if rule.get("iif") == link:
            with contextlib.suppress(GhvmError):
                _ip(f"rule delete iif {link} priority {rule['priority']}\nroute flush table {_table(link)}")
    with contextlib.suppress(OSError):
        conntrack.forget(rules.mark(link))


def _table(link: str) -> int:
    return _TABLES + int(link.removeprefix(rules.LINK))


def sweep(state: Path) -> None:
    """Remove what dead runs have left, and stop to route once no guest is there. Raises GhvmError and OSError."""
    if not (state / _LEASES).exists():
        return  # there has never been a run
    for link in _tables() | {link for link in _links() if _LINK.fullmatch(link)}:
        with contextlib.suppress(Locked, FileNotFoundError), _leased(state / _LEASES, link):
            _delete(link)
    routing.end(state, _nft, lambda: any(_LINK.fullmatch(link) for link in _links()))


def _leased(directory: Path, link: str) -> contextlib.AbstractContextManager[int]:
    """Hold a lease. Raises Locked if a run holds it."""
    return lock(directory / link, wait=False)


def _links() -> set[str]:
    return {str(link["ifname"]) for link in _json("ip", "-json", "link", "show")}


def _tables() -> set[str]:
    document = json.loads(process.run(["nft", "-j", "list", "tables"], timeout=_SECONDS))
    names = {one["table"]["name"] for one in document["nftables"] if one.get("table", {}).get("family") == "inet"}
    return {name for name in names if _LINK.fullmatch(name)}


def _default() -> str | None:
    """The interface by which the host reaches the world; only the kernel knows that for sure, and it sends nothing."""
    try:
        (way,) = _json("ip", "-json", "-4", "route", "get", _WORLD)
    except (process.CommandFailed, ValueError):
        return None
    return str(way["dev"]) if way.get("dev") not in (None, "lo") else None


def _way(routes: Sequence[dict[str, object]], uplink: str) -> str:
    """How an uplink that a person has chosen leads out."""
    for route in routes:
        if route.get("dst") == "default" and route.get("dev") == uplink and "table" not in route:
            return f"via {route['gateway']} dev {uplink}" if "gateway" in route else f"dev {uplink}"
    raise PermanentError(
        f"The network interface {uplink} has no default route",
        resolution=f"Add one (perhaps with a high metric): ip route add default via GATEWAY dev {uplink} metric 1000",
    )


def _addresses(link: dict[str, object]) -> Iterator[IPv4Address]:
    listed = link.get("addr_info")
    for one in listed if isinstance(listed, list) else ():
        address = IPv4Address(one["local"])
        if not address.is_loopback:
            yield address


def _network(route: dict[str, object]) -> IPv4Network | None:
    if _LINK.fullmatch(str(route.get("dev", ""))):
        return None
    try:
        return IPv4Network(str(route.get("dst")))
    except ValueError:
        return None  # "default"


def _json(*argv: str) -> list[dict[str, object]]:
    document: object = json.loads(process.run(argv, timeout=_SECONDS) or "[]")
    return [one for one in document if isinstance(one, dict)] if isinstance(document, list) else []


def _ip(lines: str) -> None:
    with process.begin(["ip", "-batch", "-"]) as program:
        program.finish(f"{lines}\n", timeout=_SECONDS)


def _nft(text: str) -> None:
    with process.begin(["nft", "-f", "-"]) as program:
        program.finish(text, timeout=_SECONDS)
