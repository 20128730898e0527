"""A guest that tries what it must not reach: a real run with a tiny image, whose job is the attempt."""

import contextlib
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Address
from pathlib import Path

from ghrunner_vm.errors import InfrastructureError
from ghrunner_vm.network import addresses
from ghrunner_vm.simulator.demo import Moment, perform

_METADATA = "169.254.169.254"
"""Where clouds keep the credentials of their machines."""
_WEB = 80
_TRY = """
try() {
    if timeout 5 nc "$2" "$3" </dev/null >/dev/null 2>&1; then echo "wall $1 reached"; else echo "wall $1 closed"; fi
}
"""

Place = tuple[str, int]
"""An address as the guest sees it, and a TCP port."""


@contextlib.contextmanager
def targets(own: Sequence[IPv4Address], routers: Sequence[str]) -> Iterator[Mapping[str, Place]]:
    """What a guest must not reach on this host, each with somebody who answers there, and around it."""
    with contextlib.ExitStack() as stack:
        loopback = stack.enter_context(_answering("127.0.0.1"))
        found: dict[str, Place] = {"this host's loopback": (str(addresses.GATEWAY), loopback)}
        for address in own:
            found[f"this host at {address}"] = (str(address), stack.enter_context(_answering(str(address))))
        found["link-local addresses"] = (_METADATA, _WEB)
        for router in routers:
            found[f"the router {router}"] = (router, _WEB)
        yield found


def attempt(places: Mapping[str, Place], cache: Path, flags: Sequence[str]) -> Mapping[str, bool]:
    """Whether a guest reached each of the places. `flags` are for its `ghvm run`.

    Raises InfrastructureError if there was no guest, or if it could not even try.
    """
    lines = [_TRY, *(f"try {number} {address} {port}" for number, (address, port) in enumerate(places.values()))]
    said: list[str] = []
    moments: list[Moment] = []
    summary = perform("\n".join(lines), cache, moments.append, said.append, flags)
    reached = {name: f"wall {number} reached" in said for number, name in enumerate(places)}
    tried = [name for number, name in enumerate(places) if f"wall {number} closed" in said or reached[name]]
    if summary.exit_code != 0 or len(tried) != len(places):
        told = "\n".join(moment.words for moment in moments[-3:])
        raise InfrastructureError("The guest that was to try the walls did not get that far", details=told)
    return reached


@contextlib.contextmanager
def _answering(address: str) -> Iterator[int]:
    """Somebody who answers at a port of this address."""
    with socket.create_server((address, 0)) as listening:

        def serve() -> None:
            with contextlib.suppress(OSError):  # closed
                while True:
                    visitor, _ = listening.accept()
                    visitor.close()

        thread = threading.Thread(target=serve, name=f"answers at {address}", daemon=True)
        thread.start()
        try:
            yield int(listening.getsockname()[1])
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()
