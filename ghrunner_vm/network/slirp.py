"""The way out of a namespace without root: slirp4netns(1) makes the connections of the guest again, as a plain user.

Its way to the host's loopback is closed; what else it could reach for the guest is up to the filters in the namespace.
"""

import contextlib
import os
import select
from collections.abc import Iterator
from ipaddress import IPv4Network

from ghrunner_vm import process
from ghrunner_vm.errors import InfrastructureError
from ghrunner_vm.network import rules
from ghrunner_vm.network.uplink import MTU, Way

_NETWORK = IPv4Network("198.18.0.0/24")
_SECONDS = 10.0
_LOG_BYTES = 4096


@contextlib.contextmanager
def connected(pid: int) -> Iterator[Way]:
    """Connect the namespace of a process. Must be called in the main thread, see process.start.

    Raises CommandMissing, and InfrastructureError if it does not come up.
    """
    process.require("slirp4netns")
    with contextlib.ExitStack() as stack:
        ready, tell_ready = (stack.enter_context(os.fdopen(end, closefd=True)) for end in os.pipe())
        words = os.memfd_create("ghvm-slirp")
        stack.callback(os.close, words)
        child = stack.enter_context(
            process.start(_command(pid, tell_ready.fileno()), inherit=[tell_ready.fileno()], stderr=words)
        )
        tell_ready.close()
        readable, _, _ = select.select([ready], [], [], _SECONDS)
        if not readable or not os.read(ready.fileno(), 1):
            said = os.pread(words, _LOG_BYTES, 0).decode(errors="replace").strip()
            raise InfrastructureError("slirp4netns does not start", details=f"{said} (exit code {child.poll()})")
        yield Way(MTU)


def _command(pid: int, ready: int) -> list[str]:
    return [
        *("setpriv", "--no-new-privs", "--pdeathsig", "KILL", "--"),
        *("slirp4netns", "--configure", f"--mtu={MTU}", f"--cidr={_NETWORK}", f"--ready-fd={ready}"),
        *("--disable-host-loopback", "--disable-dns", "--enable-sandbox", "--enable-seccomp"),
        *(str(pid), rules.UP),
    ]
