"""Routing that the host does for guests only: switched on where it was off, guarded, and off again after the last one.

The kernel asks the interface that a packet came in by whether it may be routed at all (ip-sysctl.rst, forwarding), so
that replies to guests want it at the uplink. What was switched on is written down, since packet filters get flushed.
"""

import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from ghrunner_vm import process
from ghrunner_vm.errors import PermanentError
from ghrunner_vm.files import lock, write_atomically
from ghrunner_vm.network import rules

_SYSCTL = Path("/proc/sys/net")
_RECORDS = "routing"

Load = Callable[[str], object]


def begin(uplink: str, state: Path, load: Load) -> None:
    """Have the host route what comes in at its uplink to guests. `load` takes text for nft."""
    with _records(state) as records:
        number = socket.if_nametoindex(uplink)
        known = _switched_on(records / uplink)
        if known is None and get(f"ipv4/conf/{uplink}/forwarding") == "1":
            return  # it did so before us
        if known not in (None, number):
            load("\n".join(rules.removed(f"{rules.GUARD}-{known}")) + "\n")
        write_atomically(records / uplink, f"{process.boot_id()} {number}".encode())
        load(rules.guard(uplink, number))
        put(f"ipv4/conf/{uplink}/forwarding", "1")


def end(state: Path, load: Load, needed: Callable[[], bool]) -> None:
    """Stop it at all uplinks where `begin` has begun it, unless it is still needed."""
    with _records(state) as records:
        if needed():
            return
        for record in list(records.iterdir()):
            number = _switched_on(record)
            if number is not None:
                if get("ipv4/ip_forward") != "1":  # else somebody has made the host a router meanwhile
                    put(f"ipv4/conf/{record.name}/forwarding", "0")
                load("\n".join(rules.removed(f"{rules.GUARD}-{number}")) + "\n")
            record.unlink()


@contextlib.contextmanager
def _records(state: Path) -> Iterator[Path]:
    records = state / _RECORDS
    records.mkdir(parents=True, exist_ok=True, mode=0o700)
    with lock(state / "network.lock"):
        yield records


def _switched_on(record: Path) -> int | None:
    """The number of the interface, if it was switched on since the host was booted."""
    try:
        boot, number = record.read_text(encoding="ascii").split()
        return int(number) if boot == process.boot_id() else None
    except (OSError, ValueError):
        return None


def get(name: str) -> str:
    """A value below /proc/sys/net."""
    return (_SYSCTL / name).read_text(encoding="ascii").strip()


def put(name: str, value: str) -> None:
    """Set one, if this kernel has it. Raises PermanentError."""
    path = _SYSCTL / name
    try:
        if path.exists():  # a kernel without IPv6 has nothing to be switched off, and an interface may be gone
            path.write_text(value, encoding="ascii")
    except OSError as error:
        raise PermanentError(
            f"net.{name.replace('/', '.')} cannot be set: {error.strerror}",
            resolution="As a service, ghvm needs ProtectKernelTunables=no: write its unit anew with `ghvm systemd`.",
        ) from error
