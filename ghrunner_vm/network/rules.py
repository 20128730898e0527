"""The packet filters around a guest as nftables text (nft(8), 1.0.2 or newer). Pure.

Inside a run's namespace stands its policy, out of the guest's reach. On the host stands what holds for every guest,
whatever happens inside: a table for each run, named like its interface, so that nothing is shared and all of it goes at
once.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from ghrunner_vm.egress import PRIVATE, Egress, Entry
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
    """The table of a namespace. `hosts` are addresses of this host, which are reached only by what is allowed."""
    return _text(
        f"table ip {TABLE} {{",
        f" set {REFUSED} {{ {_DESTINATIONS}; flags dynamic; size {_REMEMBERED}; counter; }}",
        f" set {SEEN} {{ {_DESTINATIONS}; flags dynamic; size {_REMEMBERED}; counter; }}",
        f" set {NAMED} {{ {_DESTINATIONS}; flags interval; size 65536; }}",
        f" counter {REFUSED} {{ }}",
        f" counter {SPOOFED} {{ }}",
        " chain honest {",
        "  type filter hook prerouting priority raw; policy accept;",
        f"  iifname {TAP} ip saddr 0.0.0.0 udp sport 68 udp dport 67 accept",
        f"  iifname {TAP} ip saddr != {addresses.GUEST} counter name {SPOOFED} drop",
        " }",
        " chain local {",
        "  type nat hook prerouting priority dstnat; policy accept;",
        *(
            f"  iifname {TAP} ip daddr {addresses.GATEWAY} tcp dport {_ports(ports)} redirect to :{RELAY_PORT}"
            for ports in _distinct(egress.relayed)
        ),
        " }",
        " chain input {",
        "  type filter hook input priority filter; policy drop;",
        "  ct state established,related accept",
        f"  iifname {TAP} udp dport 67 accept",
        f"  iifname {TAP} udp dport 53 limit rate over {_QUESTIONS} drop",
        f"  iifname {TAP} ip daddr {addresses.NAME_SERVER} meta l4proto {{ tcp, udp }} th dport 53 accept",
        f"  iifname {TAP} ip daddr {addresses.GATEWAY} tcp dport {ONESHOT_PORT} accept",
        f"  iifname {TAP} ct status dnat tcp dport {RELAY_PORT} accept",
        f"  iifname {TAP} ip daddr {{ {addresses.GATEWAY}, {addresses.NAME_SERVER} }} icmp type echo-request accept",
        f"  iifname {TAP} ip daddr != 255.255.255.255 goto refuse",
        " }",
        " chain forward {",
        "  type filter hook forward priority filter; policy drop;",
        "  tcp flags syn tcp option maxseg size set rt mtu",
        "  ct state established,related accept",
        f"  iifname {TAP} oifname {UP} ct state new goto guest",
        f"  iifname {TAP} goto refuse",
        " }",
        " chain guest {",
        f"  ct count over {_CONNECTIONS} counter drop",
        f"  limit rate over {_NEW_CONNECTIONS} counter drop",
        *(f"  {match} goto refuse" for match in _matches(egress.deny)),
        *(f"  {match} goto admit" for match in _matches(egress.networks)),
        f"  ip daddr {{ {', '.join(map(str, PRIVATE))} }} goto refuse",
        *(f"  ip daddr {address} goto refuse" for address in hosts),
        *((f"  {_KEY} @{NAMED} goto admit", "  goto refuse") if egress.mode == "listed" else ("  goto admit",)),
        " }",
        " chain admit {",
        *(f"  meta l4proto {{ tcp, udp }} update @{SEEN} {{ {_KEY} }}" for _ in range(learn)),
        "  accept",
        " }",
        " chain refuse {",
        f"  counter name {REFUSED}",
        f"  meta l4proto {{ tcp, udp }} update @{REFUSED} {{ {_KEY} }}",
        "  meta l4proto tcp reject with tcp reset",
        "  reject with icmp type admin-prohibited",
        " }",
        " chain output {",
        "  type filter hook output priority filter; policy drop;",
        f"  oifname {TAP} accept",
        " }",
        " chain leave {",
        "  type nat hook postrouting priority srcnat; policy accept;",
        f"  oifname {UP} masquerade",
        " }",
        "}",
        # The table of neighbours is one for all namespaces: a guest must not fill it.
        "table arp ghvm {",
        " chain honest {",
        "  type filter hook input priority filter; policy accept;",
        f"  iifname {TAP} arp saddr ip != {addresses.GUEST} drop",
        " }",
        "}",
        "table ip6 ghvm {",
        " chain none { type filter hook prerouting priority raw; policy drop; }",
        "}",
    )


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
        f"  iifname {link} ip daddr {{ {', '.join(map(str, PRIVATE))} }} reject with icmpx type admin-prohibited",
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


_KEY = "ip daddr . meta l4proto . th dport"


def _matches(entries: Iterable[Entry]) -> Iterator[str]:
    for entry in entries:
        if isinstance(entry.target, IPv4Network):
            ports = "" if entry.ports == (0, 65535) else f" meta l4proto {{ tcp, udp }} th dport {_ports(entry.ports)}"
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
