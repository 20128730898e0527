"""A small internet for tests: network namespaces for a host, and for all that its guests may and must not reach.

    guest -- (ghvm's own namespace) -- host 192.0.2.2 -- world: 192.0.2.1, 203.0.113.10, 10.1.2.3, 169.254.169.254

Nothing of it touches the networks of the machine that runs the tests.
"""

import contextlib
import ctypes
import functools
import json
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ghrunner_vm import process
from tests.harness import WAIT_SECONDS

T = TypeVar("T")
HOST = "192.0.2.2"
ROUTER = "192.0.2.1"
PUBLIC = "203.0.113.10"
OTHER_PUBLIC = "203.0.113.11"
PRIVATE = "10.1.2.3"
METADATA = "169.254.169.254"
PORT = 80
_SECOND = "198.51.100"
_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class World:
    """The two namespaces, by name. `asked` are the names that its name server was asked for."""

    host: str
    rest: str
    asked: list[str]
    state: Path
    """The host's /var/lib/ghvm."""

    @property
    def on_host(self) -> tuple[str, ...]:
        """What a command begins with that runs on the host."""
        mounted = 'mount --bind "$0" /var/lib/ghvm && exec "$@"'  # in a mount namespace that ip(8) makes
        return ("ip", "netns", "exec", self.host, "sh", "-c", mounted, str(self.state))

    def in_host(self, make: Callable[[], T]) -> T:
        """What `make` gives when it is called on the host; its sockets, and those of its threads, belong there."""
        return within(self.host, make)

    def ip(self, *words: str) -> str:
        """ip(8) on the host."""
        return process.run(["ip", "-n", self.host, *words], timeout=WAIT_SECONDS)

    def nft(self, *words: str) -> str:
        """nft(8) on the host."""
        return process.run([*self.on_host, "nft", *words], timeout=WAIT_SECONDS)

    def ours(self) -> list[str]:
        """What ghvm has in the host's network: interfaces and tables."""
        links = [link["ifname"] for link in json.loads(self.ip("-json", "link", "show")) if "ghvm" in link["ifname"]]
        return [*links, *(line for line in self.nft("list", "tables").splitlines() if "ghvm" in line)]

    def setting(self, name: str) -> str:
        """A value below /proc/sys/net on the host."""
        return self.in_host(lambda: Path(f"/proc/sys/net/{name}").read_text(encoding="ascii").strip())


@contextlib.contextmanager
def world(state: Path) -> Iterator[World]:
    """Make one. Every address of the world answers HTTP at port 80 with its own name; a name server is on the host."""
    tag = secrets.token_hex(3)
    host, rest, asked = f"host-{tag}", f"rest-{tag}", list[str]()
    with contextlib.ExitStack() as stack:
        for name in (host, rest):
            process.run(["ip", "netns", "add", name], timeout=WAIT_SECONDS)
            stack.callback(process.run, ["ip", "netns", "delete", name], timeout=WAIT_SECONDS)
        _ip(
            *(f"-n {host} link set lo up", f"-n {rest} link set lo up"),
            f"-n {host} link add eth0 type veth peer name eth0 netns {rest}",
            f"-n {host} addr add {HOST}/24 dev eth0",
            *(f"-n {rest} addr add {address}/24 dev eth0" for address in (ROUTER, PUBLIC, OTHER_PUBLIC)),
            *(f"-n {rest} addr add {address}/32 dev eth0" for address in (PRIVATE, METADATA)),
            *(f"-n {host} link set eth0 up", f"-n {rest} link set eth0 up"),
            f"-n {host} route add default via {ROUTER}",
        )
        # A new namespace begins with what the machine that runs the tests has set, as Docker does.
        within(host, lambda: Path("/proc/sys/net/ipv4/ip_forward").write_text("0", encoding="ascii"))
        for address in (PUBLIC, OTHER_PUBLIC, PRIVATE, METADATA):
            stack.enter_context(_http(within(rest, functools.partial(_listen, address)), address))
        stack.enter_context(_http(within(host, functools.partial(_listen, "0.0.0.0")), "host"))  # noqa: S104 in a namespace
        stack.enter_context(_names(within(host, _name_server), asked))
        yield World(host, rest, asked, state)


@contextlib.contextmanager
def second_uplink(here: World) -> Iterator[None]:
    """Another interface of the host, whose world has PUBLIC as well."""
    other = f"other-{secrets.token_hex(3)}"
    with contextlib.ExitStack() as stack:
        process.run(["ip", "netns", "add", other], timeout=WAIT_SECONDS)
        stack.callback(process.run, ["ip", "netns", "delete", other], timeout=WAIT_SECONDS)
        _ip(
            f"-n {here.host} link add eth1 type veth peer name eth0 netns {other}",
            f"-n {here.host} addr add {_SECOND}.2/24 dev eth1",
            f"-n {other} addr add {_SECOND}.1/24 dev eth0",
            f"-n {other} addr add {PUBLIC}/32 dev eth0",
            *(f"-n {here.host} link set eth1 up", f"-n {other} link set eth0 up"),
            f"-n {here.host} route add default via {_SECOND}.1 dev eth1 metric 1000",
        )
        stack.callback(_ip, f"-n {here.host} link delete eth1")
        with _http(within(other, functools.partial(_listen, PUBLIC)), "the other world"):
            yield


def _ip(*lines: str) -> None:
    for line in lines:
        process.run(["ip", *line.split()], timeout=WAIT_SECONDS)


def within(namespace: str, make: Callable[[], T]) -> T:
    """What `make` gives when it is called in a namespace."""
    made: Future[T] = Future()

    def work() -> None:
        try:
            with open(f"/run/netns/{namespace}", "rb") as file:  # noqa: PTH123 for its descriptor
                moved = _LIBC.setns(file.fileno(), _CLONE_NEWNET)
            assert moved == 0, ctypes.get_errno()
            made.set_result(make())
        except BaseException as error:  # noqa: BLE001 it is raised for whoever waits
            made.set_exception(error)

    threading.Thread(target=work, daemon=True).start()  # its namespace ends with it
    return made.result(WAIT_SECONDS)


def _listen(address: str) -> socket.socket:
    return socket.create_server((address, PORT))


@contextlib.contextmanager
def _http(listening: socket.socket, name: str) -> Iterator[None]:
    """Answers each connection, whatever it asks for."""
    body = f"this is {name}\n".encode()
    answer = b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)

    def serve() -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                visitor, _ = listening.accept()
                with visitor, contextlib.suppress(OSError):
                    visitor.settimeout(WAIT_SECONDS)
                    visitor.recv(4096)
                    visitor.sendall(answer)

    with _thread(serve, listening):
        yield


def _name_server() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind(("127.0.0.1", 53))
    return made


@contextlib.contextmanager
def _names(server: socket.socket, asked: list[str]) -> Iterator[None]:
    """Every name below `public.example` is PUBLIC, below `private.example` PRIVATE; others do not exist."""

    def serve() -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                query, sender = server.recvfrom(4096)
                if not query:
                    return  # shut down
                name, end = _question(query)
                asked.append(name)
                server.sendto(_answer(query, name, end), sender)

    with _thread(serve, server):
        yield


def _question(query: bytes) -> tuple[str, int]:
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode())
        at += 1 + query[at]
    return ".".join(labels), at + 5


def _answer(query: bytes, name: str, end: int) -> bytes:
    address = PUBLIC if name.endswith("public.example") else PRIVATE if name.endswith("private.example") else None
    if address is None:
        return query[:2] + b"\x81\x83" + query[4:6] + bytes(6) + query[12:end]
    record = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04" + socket.inet_aton(address)
    return query[:2] + b"\x81\x80" + query[4:6] + b"\x00\x01" + bytes(4) + query[12:end] + record


@contextlib.contextmanager
def _thread(serve: Callable[[], None], listening: socket.socket) -> Iterator[None]:
    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)  # wakes the thread up
        listening.close()
        thread.join(WAIT_SECONDS)
