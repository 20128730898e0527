"""A network namespace without a name: it is gone when the last process and the last socket in it are."""

import contextlib
import json
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ghrunner_vm import process
from ghrunner_vm.errors import InfrastructureError, PermanentError
from ghrunner_vm.network import clerk

_SECONDS = 10.0
_ANSWER_BYTES = 4096
_LOG_BYTES = 4096
_CAPABILITIES = "-all,+net_admin,+net_raw,+net_bind_service"


class Namespace:
    """A namespace that is there. What is made in it may be used by any process that gets it."""

    def __init__(self, connection: socket.socket, pid: int) -> None:
        self._connection = connection
        self.pid = pid

    def run(self, argv: Sequence[str], given: str = "") -> str:
        """The output of a program in the namespace, with `given` as its input. Raises as process.run does."""
        enter = ["nsenter", "--target", str(self.pid), "--net"]
        if os.geteuid() != 0:
            enter += ["--user", "--preserve-credentials"]
        with process.begin([*enter, "--", *argv]) as program:
            return program.finish(given, timeout=_SECONDS)

    def tap(self, name: str) -> int:
        """The descriptor of a new network card of this name."""
        return self._ask({"make": "tap", "name": name})

    def udp(self, address: str, port: int, device: str) -> socket.socket:
        """A non-blocking UDP socket that hears what comes in at one device."""
        return self._socket({"make": "udp", "address": address, "port": str(port), "device": device})

    def listen(self, address: str, port: int) -> socket.socket:
        """A non-blocking TCP socket that listens."""
        return self._socket({"make": "listen", "address": address, "port": str(port)})

    def tcp(self) -> socket.socket:
        """A non-blocking TCP socket that is not connected yet."""
        return self._socket({"make": "tcp"})

    def _socket(self, request: dict[str, str]) -> socket.socket:
        made = socket.socket(fileno=self._ask(request))
        made.setblocking(False)
        return made

    def _ask(self, request: dict[str, str]) -> int:
        try:
            self._connection.send(json.dumps(request).encode())
            answer, descriptors, _, _ = socket.recv_fds(self._connection, _ANSWER_BYTES, 1)
        except OSError as error:
            raise InfrastructureError("The network namespace does not answer", details=str(error)) from error
        if not descriptors:
            raise _refused(request, json.loads(answer or b'{"error": "it has ended"}'))
        os.set_inheritable(descriptors[0], False)
        return descriptors[0]


@contextlib.contextmanager
def namespace() -> Iterator[Namespace]:
    """A new one, of our own user namespace if we are not root. Must be called in the main thread, see process.start.

    Raises PermanentError where that is forbidden.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, _memory() as words:
        ours.settimeout(_SECONDS)
        with process.start(_command(theirs.fileno()), inherit=[theirs.fileno()], stderr=words) as child:
            theirs.close()
            if not _greeted(ours):
                raise _forbidden(os.pread(words, _LOG_BYTES, 0).decode(errors="replace"))
            yield Namespace(ours, child.pid)


def _command(descriptor: int) -> list[str]:
    apart = ["unshare", "--net"]
    confined = ["setpriv", "--no-new-privs", "--pdeathsig", "KILL"]
    if os.geteuid() == 0:
        confined += ["--bounding-set", _CAPABILITIES]
    else:
        apart += ["--user", "--map-root-user"]
    return [*apart, "--", *confined, "--", sys.executable, "-I", "-S", str(Path(clerk.__file__)), str(descriptor)]


def _greeted(ours: socket.socket) -> bool:
    try:
        return bool(ours.recv(_ANSWER_BYTES))
    except OSError:
        return False


def _refused(request: dict[str, str], answer: dict[str, object]) -> InfrastructureError:
    return InfrastructureError(
        f"In the network namespace no {request['make']} could be made", details=f"{answer.get('error')}: {request}"
    )


def _forbidden(words: str) -> PermanentError:
    root = "Run it as root, with CAP_SYS_ADMIN and CAP_NET_ADMIN."
    user = (
        "Allow user namespaces (sysctl kernel.apparmor_restrict_unprivileged_userns=0 on Ubuntu 24.04 and newer, "
        "kernel.unprivileged_userns_clone=1 on old Debian), or run it as root."
    )
    return PermanentError(
        "A network namespace cannot be made here",
        details=words.strip() or None,
        resolution=root if os.geteuid() == 0 else user,
    )


@contextlib.contextmanager
def _memory() -> Iterator[int]:
    descriptor = os.memfd_create("ghvm-clerk")
    try:
        yield descriptor
    finally:
        os.close(descriptor)
