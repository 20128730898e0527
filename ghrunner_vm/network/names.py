"""Names of the world: which of them a guest may ask for, what they open in the packet filter, and which it has used."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv4Address

from ghrunner_vm.egress import PRIVATE, Egress, Entry, is_name
from ghrunner_vm.errors import GhvmError
from ghrunner_vm.network import rules
from ghrunner_vm.threads import in_daemon_thread

_MOST_OPEN = 8192
_MOST_KNOWN = 16_384
_MOST_AT_ONCE = 64
"""Addresses of one answer."""

Load = Callable[[str], object]
Opening = tuple[IPv4Address, tuple[int, int]]
"""An address and a range of its ports."""


class Names:
    """What the guest's name server lets pass. Implements dns.Watcher; `load` takes text for nft in the namespace.

    What was opened stays so as long as the guest lives, which is one job: programs keep addresses for longer than name
    servers tell them to.
    """

    def __init__(self, egress: Egress, load: Load) -> None:
        self._egress = egress
        self._load = load
        self._open: set[Opening] = set()
        self._tried: set[Opening] = set()
        """The same, and what the kernel refused: what overlaps with it is open."""
        self._turn = asyncio.Lock()
        self.known: dict[IPv4Address, str] = {}
        """The name by which the guest first learnt of each address."""

    def permits(self, name: str) -> bool:
        """Whether the guest may have the name resolved: a question can carry a secret out as well."""
        return self._egress.mode == "internet" or bool(self._matching(name))

    async def answered(self, name: str, addresses: Sequence[tuple[IPv4Address, int]]) -> None:
        """Open what the name is allowed to open. It never opens a private network: who owns a name chooses its address.

        An address that cannot be opened stays closed, and its connections are refused like all others.
        """
        public = [address for address, _ in addresses if not any(address in network for network in PRIVATE)]
        for address in public if is_name(name) else ():
            if len(self.known) < _MOST_KNOWN:
                self.known.setdefault(address, name.lower())
        if self._egress.mode == "listed":
            wanted = {(address, entry.ports) for address in public[:_MOST_AT_ONCE] for entry in self._matching(name)}
            async with self._turn:
                await in_daemon_thread(lambda: self._admit(wanted - self._tried), name="names")

    def _admit(self, new: set[Opening]) -> None:
        if not new or len(self._open) + len(new) > _MOST_OPEN or self._opened(new):
            return
        # One whose ports overlap with what another name has opened there is refused by the kernel, and all with it.
        for one in new:
            self._opened({one})
        self._tried |= new

    def _opened(self, new: set[Opening]) -> bool:
        try:
            self._load("".join(f"{rules.named(address, ports)}\n" for address, ports in sorted(new)))
        except GhvmError:
            return False
        self._open |= new
        self._tried |= new
        return True

    def _matching(self, name: str) -> list[Entry]:
        return [entry for entry in self._egress.names if _matches(str(entry.target), name.lower().rstrip("."))]


def _matches(target: str, name: str) -> bool:
    return name.endswith(target[1:]) and len(name) >= len(target) if target.startswith("*.") else name == target


def learnt(seen: Iterable[tuple[IPv4Address, int]], known: dict[IPv4Address, str]) -> list[str]:
    """The entries of a list that lets pass what was seen, by name where the guest had one. Pure."""
    return sorted({f"{known.get(address, str(address))}:{port}" for address, port in seen})
