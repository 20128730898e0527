"""The packet filters around a guest as nftables text (nft(8), 1.0.2 or newer). Pure.

Inside a run's namespace stands its policy, out of the guest's reach. On the host stands what holds for every guest,
whatever happens inside: a table for each run, named like its interface, so that nothing is shared and all of it goes at
once.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from ghrunner_vm.egress import ALL_PORTS, PRIVATE, Egress, Entry
from ghrunner_vm.network import addresses

TABLE = "ghvm"
"""The table in a namespace."""
REFUSED = "refused"
"""The set of refused destinations, and the counter of refused packets."""
SPOOFED = "spoofed"
"""The counter of packets that did not come from the guest's address."""
SEEN = "seen"
NAMED = "named"
TAP = "tap0"
UP = "up0"
"""The namespace's end of the way out."""
LINK = "ghvm"
"""Begins the name of each interface and table of ours on the host."""
GUARD = "ghvm-guard"
"""Begins the name of the tables that keep the host from routing for others what it began to route for guests."""
RELAY_PORT = 65535
ONESHOT_PORT = 65534
"""Ports of the gateway's that are ours; the guest cannot reach the same ones of the host's loopback."""

_DESTINATIONS = "type ipv4_addr . inet_proto . inet_service"
_KEY = "ip daddr . meta l4proto . th dport"
_PRIVATE = f"{{ {', '.join(map(str, PRIVATE))} }}"
_REMEMBERED = 1024
_CONNECTIONS = 16384
"""At once; more would fill the host's table of connections, which all of it shares."""
_NEW_CONNECTIONS = "200/second burst 4096 packets"
"""Those that were closed stay in that table for two minutes, and the count above leaves them out."""
_QUESTIONS = "200/second burst 400 packets"
"""Each is asked again of the host's own name server."""


@dataclass(frozen=True)
class Outside:
    """The way out of a namespace on the host."""

    link: str
    """The host's interface; also the name of the table."""
    transit: IPv4Network
    """The few addresses between the host and the namespace."""

    @property
    def mark(self) -> int:
        """Of the host's connections that are the guest's."""
        return mark(self.link)


def mark(link: str) -> int:
    """The mark of the connections that come in by an interface of ours: `ghv` and its number."""
    return 0x67680000 | int(link.removeprefix(LINK))


def inside(egress: Egress, hosts: Sequence[IPv4Address] = (), *, learn: bool = False) -> str:
    """The tables of a namespace. `hosts` are addresses of this host, which are reached only by what is allowed."""
    return _text(
        f"table ip {TABLE} {{",
        *_memory(),
        *_arrivals(egress),
        *_served(),
        *_passed_on(egress, hosts),
        *_verdicts(learn=learn),
        *_departures(),
        "}",
        # The table of neighbours is one for all namespaces: a guest must not fill it.
        f"table arp {TABLE} {{",
        " chain honest {",
        "  type filter hook input priority filter; policy accept;",
        f"  iifname {TAP} arp saddr ip != {addresses.GUEST} drop",
        " }",
        "}",
        f"table ip6 {TABLE} {{",
        " chain none { type filter hook prerouting priority raw; policy drop; }",
        "}",
    )


def _memory() -> Iterator[str]:
    """What is counted, and what names have opened."""
    yield f" set {REFUSED} {{ {_DESTINATIONS}; flags dynamic; size {_REMEMBERED}; counter; }}"
    yield f" set {SEEN} {{ {_DESTINATIONS}; flags dynamic; size {_REMEMBERED}; counter; }}"
    yield f" set {NAMED} {{ {_DESTINATIONS}; flags interval; size 65536; }}"
    yield f" counter {REFUSED} {{ }}"
    yield f" counter {SPOOFED} {{ }}"


def _arrivals(egress: Egress) -> Iterator[str]:
    """Only what comes from the guest's own address; and the host's loopback stands behind the gateway's."""
    yield " chain honest {"
    yield "  type filter hook prerouting priority raw; policy accept;"
    yield f"  iifname {TAP} ip saddr 0.0.0.0 udp sport 68 udp dport 67 accept"
    yield f"  iifname {TAP} ip saddr != {addresses.GUEST} counter name {SPOOFED} drop"
    yield " }"
    yield " chain local {"
    yield "  type nat hook prerouting priority dstnat; policy accept;"
    for ports in _distinct(egress.relayed):
        yield f"  iifname {TAP} ip daddr {addresses.GATEWAY} tcp dport {_ports(ports)} redirect to :{RELAY_PORT}"
    yield " }"


def _served() -> Iterator[str]:
    """What is for us: DHCP, names, the one-shot URL, the relay."""
    yield " chain input {"
    yield "  type filter hook input priority filter; policy drop;"
    yield "  ct state established,related accept"
    yield f"  iifname {TAP} udp dport 67 accept"
    yield f"  iifname {TAP} udp dport 53 limit rate over {_QUESTIONS} drop"
    yield f"  iifname {TAP} ip daddr {addresses.NAME_SERVER} meta l4proto {{ tcp, udp }} th dport 53 accept"
    yield f"  iifname {TAP} ip daddr {addresses.GATEWAY} tcp dport {ONESHOT_PORT} accept"
    yield f"  iifname {TAP} ct status dnat tcp dport {RELAY_PORT} accept"
    yield f"  iifname {TAP} ip daddr {{ {addresses.GATEWAY}, {addresses.NAME_SERVER} }} icmp type echo-request accept"
    yield f"  iifname {TAP} ip daddr != 255.255.255.255 goto refuse"
    yield " }"


def _passed_on(egress: Egress, hosts: Sequence[IPv4Address]) -> Iterator[str]:
    """What is for others: the policy."""
    yield " chain forward {"
    yield "  type filter hook forward priority filter; policy drop;"
    yield "  tcp flags syn tcp option maxseg size set rt mtu"
    yield "  ct state established,related accept"
    yield f"  iifname {TAP} oifname {UP} ct state new goto guest"
    yield f"  iifname {TAP} goto refuse"
    yield " }"
    yield " chain guest {"
    yield f"  ct count over {_CONNECTIONS} counter drop"
    yield f"  limit rate over {_NEW_CONNECTIONS} counter drop"
    yield from (f"  {match} goto refuse" for match in _matches(egress.deny))
    yield from (f"  {match} goto admit" for match in _matches(egress.networks))
    yield f"  ip daddr {_PRIVATE} goto refuse"
    yield from (f"  ip daddr {address} goto refuse" for address in hosts)
    if egress.mode == "listed":
        yield f"  {_KEY} @{NAMED} goto admit"
        yield "  goto refuse"
    else:
        yield "  goto admit"
    yield " }"


def _verdicts(*, learn: bool) -> Iterator[str]:
    yield " chain admit {"
    if learn:
        yield f"  meta l4proto {{ tcp, udp }} update @{SEEN} {{ {_KEY} }}"
    yield "  accept"
    yield " }"
    yield " chain refuse {"
    yield f"  counter name {REFUSED}"
    yield f"  meta l4proto {{ tcp, udp }} update @{REFUSED} {{ {_KEY} }}"
    yield "  meta l4proto tcp reject with tcp reset"
    yield "  reject with icmp type admin-prohibited"
    yield " }"


def _departures() -> Iterator[str]:
    """Nothing in the namespace but the guest goes out, and that under the namespace's address."""
    yield " chain output {"
    yield "  type filter hook output priority filter; policy drop;"
    yield f"  oifname {TAP} accept"
    yield " }"
    yield " chain leave {"
    yield "  type nat hook postrouting priority srcnat; policy accept;"
    yield f"  oifname {UP} masquerade"
    yield " }"


def outside(way: Outside, egress: Egress) -> str:
    """The table of a run on the host, in place of one of that name that a dead run may have left."""
    link, others = f'"{way.link}"', f'"{LINK}*"'
    return _text(
        *removed(way.link),
        f"table inet {way.link} {{",
        " chain input {",
        "  type filter hook input priority filter - 1; policy accept;",
        f"  iifname != {link} accept",
        "  ct state established,related accept",
        f"  ip saddr != {way.transit} drop",
        *(f"  {match} accept" for match in _matches(egress.networks)),
        "  counter reject with icmpx type admin-prohibited",
        " }",
        " chain forward {",
        "  type filter hook forward priority filter - 1; policy accept;",
        f"  iifname {link} meta nfproto != ipv4 drop",
        f"  iifname {link} ip saddr != {way.transit} drop",
        f"  iifname {link} oifname {others} reject with icmpx type admin-prohibited",
        # Once more, since the host may have put another destination into a packet after its namespace let it pass.
        *(f"  iifname {link} {match} reject with icmpx type admin-prohibited" for match in _matches(egress.deny)),
        *(f"  iifname {link} {match} goto marked" for match in _matches(egress.networks)),
        f"  iifname {link} ip daddr {_PRIVATE} reject with icmpx type admin-prohibited",
        f"  iifname {link} goto marked",
        f"  oifname {link} ct state != {{ established, related }} drop",
        " }",
        # By the mark the connections are found when the guest is gone.
        " chain marked {",
        f"  ct mark set {way.mark}",
        " }",
        " chain leave {",
        "  type nat hook postrouting priority srcnat; policy accept;",
        f"  ip saddr {way.transit} oifname != {others} masquerade",
        " }",
        "}",
    )


def guard(uplink: str, number: int) -> str:
    """What the host must not route, although replies to guests made routing necessary on its `uplink`."""
    return _text(
        *removed(f"{GUARD}-{number}"),
        f"table inet {GUARD}-{number} {{",
        " chain forward {",
        "  type filter hook forward priority filter - 1; policy accept;",
        "  meta nfproto != ipv4 accept",  # which is as it was
        "  ct status dnat accept",  # of whoever publishes ports of containers
        f'  iifname "{uplink}" oifname != "{LINK}*" ct state != {{ established, related }} drop',
        " }",
        "}",
    )


def named(address: IPv4Address, ports: tuple[int, int]) -> str:
    """Opens an address in a namespace, of which a name is allowed."""
    key = f"{address} . {{}} . {max(ports[0], 1)}-{ports[1]}"
    return f"add element ip {TABLE} {NAMED} {{ {key.format('tcp')}, {key.format('udp')} }}"


def removed(table: str) -> tuple[str, str]:
    """Removes a table of the host, whether there is one or not."""
    return f"add table inet {table}", f"delete table inet {table}"


def _matches(entries: Iterable[Entry]) -> Iterator[str]:
    for entry in entries:
        if isinstance(entry.target, IPv4Network):
            ports = "" if entry.ports == ALL_PORTS else f" meta l4proto {{ tcp, udp }} th dport {_ports(entry.ports)}"
            yield f"ip daddr {entry.target}{ports}"


def _ports(ports: tuple[int, int]) -> str:
    low, high = ports
    return str(low) if low == high else f"{low}-{high}"


def _distinct(ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The ranges without the ports that are ours."""
    for low, high in ranges:
        if low < ONESHOT_PORT:
            yield max(low, 1), min(high, ONESHOT_PORT - 1)


def _text(*lines: str) -> str:
    return "\n".join(lines) + "\n"
