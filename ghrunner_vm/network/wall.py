"""The network of one guest: a namespace of its own, a network card, filters, and what is served to the guest there."""

import contextlib
import functools
import json
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from ghrunner_vm.connections import LOOPBACK, beside, listen
from ghrunner_vm.egress import Egress
from ghrunner_vm.network import addresses, rules, slirp, uplink
from ghrunner_vm.network.dhcp import Lease, serve_dhcp
from ghrunner_vm.network.dns import Upstream, serve_dns
from ghrunner_vm.network.names import Names, learnt
from ghrunner_vm.network.namespace import Namespace, namespace
from ghrunner_vm.network.relay import forward, serve_relay
from ghrunner_vm.network.uplink import Host, Way

_ANY = "0.0.0.0"  # noqa: S104 of a namespace, by one device
_DHCP_PORT = 67
_DNS_PORT = 53

Tell = Callable[[str], None]
Service = Callable[[], Coroutine[None, None, None]]
"""Runs until it is cancelled."""


@dataclass(frozen=True)
class Building:
    """What a wall is built with."""

    egress: Egress
    state: Path
    """A directory that all runs on this host share."""
    pool: IPv4Network
    """Where the addresses between namespaces and the host come from."""
    unprivileged: bool = False
    """The way out is made as an ordinary user, and nothing of the host's networks is touched."""
    uplink: str | None = None
    """The host's interface that leads out; None: that of its default route."""
    resolvers: tuple[str, ...] = ()
    """Name servers; none: those of the host."""
    learn: bool = False
    """Remember what the guest reaches."""


@dataclass(frozen=True)
class Refusals:
    """What the filters have kept from the guest so far."""

    packets: int = 0
    spoofed: int = 0
    """Packets that did not come from the guest's address."""
    destinations: tuple[tuple[str, int], ...] = ()
    """Such as `tcp 10.0.0.5:22`, with how often; the first of them only."""


class Relays:
    """Which ports of the host's loopback the guest may use, and which it has used."""

    def __init__(self, egress: Egress) -> None:
        self._egress = egress
        self.used: set[int] = set()

    def permit(self, port: int) -> bool:
        """Whether it may; then it does."""
        permitted = self._egress.relays(port)
        if permitted:
            self.used.add(port)
        return permitted


class Wall:
    """A network that stands. It holds one guest."""

    def __init__(
        self,
        inside: Namespace,
        tap: int,
        mtu: int,
        names: Names,
        relays: Relays,
        ports: contextlib.AsyncExitStack,
    ) -> None:
        self._inside = inside
        self._names = names
        self._relays = relays
        self.tap = tap
        self.tap_name = rules.TAP
        self.pid = inside.pid
        """A process in its namespace."""
        self.mtu = mtu
        self._ports = ports

    def oneshot(self) -> tuple[socket.socket, str]:
        """A socket that listens to the guest alone, and where the guest finds it."""
        made = self._inside.listen(str(addresses.GATEWAY), rules.ONESHOT_PORT)
        return made, f"{addresses.GATEWAY}:{rules.ONESHOT_PORT}"

    async def forward_ssh(self, port: int = 0) -> int:
        """Open a port of the host's loopback (0: any) that leads to port 22 of the guest, until the end of the wall.

        Raises InfrastructureError.
        """
        listening = self._ports.enter_context(listen(port))
        await self._ports.enter_async_context(beside(forward(listening, self._inside.tcp)))
        return int(listening.getsockname()[1])

    def refusals(self) -> Refusals:
        """What has been refused so far. Blocks for some milliseconds."""
        listed = self._inside.run(["nft", "-j", "list", "table", "ip", rules.TABLE])
        return _refusals(json.loads(listed)["nftables"])

    def asked_for(self) -> list[str]:
        """The entries of a list that would let pass all that did pass so far, if the wall was built to learn it."""
        listed = self._inside.run(["nft", "-j", "list", "set", "ip", rules.TABLE, rules.SEEN])
        elements = _elements(json.loads(listed)["nftables"], rules.SEEN)
        seen = [(IPv4Address(address), port) for (address, _, port), _ in elements]
        return sorted([*learnt(seen, self._names.known), *(f"{LOOPBACK}:{port}" for port in self._relays.used)])


@contextlib.asynccontextmanager
async def wall(building: Building, trouble: Tell) -> AsyncIterator[Wall]:
    """Build one; it is gone at the end of the block. Must be entered in the main thread, see process.start.

    Raises PermanentError where it cannot be built, and InfrastructureError.
    """
    # None of this takes long enough to be done beside the event loop.
    async with contextlib.AsyncExitStack() as stack:
        known = uplink.host(building.uplink)
        inside = stack.enter_context(namespace())
        tap = inside.tap(rules.TAP)
        stack.callback(os.close, tap)
        # The filters first: nothing passes before they stand.
        inside.run(["nft", "-f", "-"], rules.inside(building.egress, known.own, learn=building.learn))
        way = stack.enter_context(_way(building, known, inside.pid))
        _furnish(inside, way)
        names = Names(building.egress, functools.partial(inside.run, ["nft", "-f", "-"]))
        relays = Relays(building.egress)
        for service in _services(inside, way, building, names, relays, trouble, stack):
            await stack.enter_async_context(beside(_told(service, trouble)))
        ports = await stack.enter_async_context(contextlib.AsyncExitStack())
        yield Wall(inside, tap, way.mtu, names, relays, ports)


@contextlib.contextmanager
def _way(building: Building, known: Host, pid: int) -> Iterator[Way]:
    if building.unprivileged:
        with slirp.connected(pid) as way:
            yield way
        return
    with (
        uplink.lease(building.state, building.pool, known.routes) as outside,
        uplink.connected(outside, building.egress, known, pid, building.state) as way,
    ):
        yield way


def _furnish(inside: Namespace, way: Way) -> None:
    tap, prefix = rules.TAP, addresses.PREFIX
    lines = (
        f"link set {tap} mtu {way.mtu} up",
        f"address add {addresses.GATEWAY}/{prefix} dev {tap}",
        f"address add {addresses.NAME_SERVER}/{prefix} dev {tap}",
        # No one else can claim the guest's address.
        f"neighbour replace {addresses.GUEST} lladdr {addresses.MAC} dev {tap} nud permanent",
        *way.furnish,
    )
    inside.run(["ip", "-batch", "-"], "\n".join(lines) + "\n")


def _services(
    inside: Namespace,
    way: Way,
    building: Building,
    names: Names,
    relays: Relays,
    trouble: Tell,
    stack: contextlib.AsyncExitStack,
) -> tuple[Service, ...]:
    dhcp = stack.enter_context(inside.udp(_ANY, _DHCP_PORT, rules.TAP))
    name_server = str(addresses.NAME_SERVER)
    dns = stack.enter_context(inside.udp(name_server, _DNS_PORT, rules.TAP))
    dns_tcp = stack.enter_context(inside.listen(name_server, _DNS_PORT))
    relay = stack.enter_context(inside.listen(str(addresses.GATEWAY), rules.RELAY_PORT))
    return (
        functools.partial(serve_dhcp, dhcp, _lease(way.mtu)),
        functools.partial(serve_dns, dns, dns_tcp, Upstream(building.resolvers), names, trouble),
        functools.partial(serve_relay, relay, relays.permit, trouble),
    )


def _lease(mtu: int) -> Lease:
    """What a guest is told by DHCP."""
    mac = bytes.fromhex(addresses.MAC.replace(":", ""))
    return Lease(addresses.GUEST, addresses.GATEWAY, addresses.NAME_SERVER, mtu=mtu, mac=mac)


async def _told(service: Service, trouble: Tell) -> None:
    """Run a service. One that fails is told: the guest is the worse for it, its job may go on."""
    try:
        await service()
    except Exception as error:  # noqa: BLE001 a service for the guest is no reason to end its job
        trouble(f"a service for the guest's network has failed: {error!r}")


Element = tuple[tuple[str, str, int], int]
"""An address, a protocol and a port, with a number of packets."""


def _refusals(listed: list[dict[str, dict[str, object]]]) -> Refusals:
    counters = {str(one["counter"]["name"]): int(str(one["counter"]["packets"])) for one in listed if "counter" in one}
    refused = sorted(_elements(listed, rules.REFUSED), key=lambda element: -element[1])
    destinations = tuple((f"{protocol} {address}:{port}", count) for (address, protocol, port), count in refused)
    return Refusals(counters.get(rules.REFUSED, 0), counters.get(rules.SPOOFED, 0), destinations)


def _elements(listed: list[dict[str, dict[str, object]]], name: str) -> list[Element]:
    """The elements of a set, as `nft -j` lists it (libnftables-json(5))."""
    found: list[Element] = []
    for one in [one["set"] for one in listed if "set" in one and one["set"].get("name") == name]:
        elements = one.get("elem")
        for element in elements if isinstance(elements, list) else ():
            address, protocol, port = element["elem"]["val"]["concat"]
            found.append(((str(address), str(protocol), int(port)), int(element["elem"]["counter"]["packets"])))
    return found
