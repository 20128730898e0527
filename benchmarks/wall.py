"""How long the wall around a guest's network takes to build and to remove, and what of TCP it lets through. As root.

    python -m benchmarks.wall

A namespace stands for the guest: the wall is measured, not a machine. Nothing leaves the namespaces made here.
"""

import asyncio
import contextlib
import functools
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path

from ghrunner_vm import process
from ghrunner_vm.egress import Egress
from ghrunner_vm.network import rules
from ghrunner_vm.network.wall import Building, wall
from tests.world import OTHER_PUBLIC, PUBLIC, World, within, world

ROUNDS = 10
SECONDS = 3.0
PORT = 5201
BLOCK = bytes(1 << 20)


def main() -> None:
    with tempfile.TemporaryDirectory() as state, world(Path(state)) as here:
        built, removed = here.in_host(functools.partial(times, Path(state)))
        print(f"built in {statistics.median(built):.0f} ms, removed in {statistics.median(removed):.0f} ms")
        through, plain = rates(here)
        print(f"TCP: {through:.1f} Gbit/s through the wall, {plain:.1f} by a plain pair: {through / plain:.2f} x")


def times(state: Path) -> tuple[list[float], list[float]]:
    """Milliseconds to build and to remove one."""
    built, removed = [], []

    async def once() -> None:
        began = time.perf_counter()
        async with wall(Building(Egress(), state, IPv4Network("198.18.0.0/16"), resolvers=("127.0.0.1",)), print):
            ready = time.perf_counter()
        built.append((ready - began) * 1000)
        removed.append((time.perf_counter() - ready) * 1000)

    for _ in range(ROUNDS):
        asyncio.run(once())
    return built, removed


def rates(here: World) -> tuple[float, float]:
    """Gbit/s from a namespace behind a wall's filters, and from one that is connected as it is, one after the other."""
    with contextlib.ExitStack() as stack:
        guest, filters = (stack.enter_context(named(name)) for name in ("bench-guest", "bench-filters"))
        outside = rules.Outside("ghvm0", IPv4Network("198.18.0.0/30"))
        lines = (
            f"-n {filters} link add {rules.TAP} type veth peer name eth0 netns {guest}",
            f"-n {filters} addr add 10.0.2.2/24 dev {rules.TAP}",
            f"-n {guest} addr add 10.0.2.15/24 dev eth0",
            f"-n {filters} link set {rules.TAP} up",
            f"-n {guest} link set eth0 up",
            f"-n {guest} route add default via 10.0.2.2",
            f"-n {here.host} link add ghvm0 type veth peer name {rules.UP} netns {filters}",
            f"-n {here.host} addr add 198.18.0.1/30 dev ghvm0",
            f"-n {filters} addr add 198.18.0.2/30 dev {rules.UP}",
            f"-n {here.host} link set ghvm0 up",
            f"-n {filters} link set {rules.UP} up",
            f"-n {filters} route add default via 198.18.0.1",
        )
        for line in lines:
            process.run(["ip", *line.split()], timeout=10)
        for namespace in (filters, here.host):
            within(namespace, lambda: Path("/proc/sys/net/ipv4/ip_forward").write_text("1", encoding="ascii"))
        load(filters, rules.inside(Egress()))
        load(here.host, rules.outside(outside, Egress()))
        return rate(guest, here.rest, PUBLIC), rate(here.host, here.rest, OTHER_PUBLIC)


def load(namespace: str, text: str) -> None:
    with process.begin(["ip", "netns", "exec", namespace, "nft", "-f", "-"]) as program:
        program.finish(text, timeout=10)


def rate(client: str, server: str, address: str) -> float:
    listening = within(server, lambda: socket.create_server((address, PORT)))
    received = 0

    def drain() -> None:
        nonlocal received
        visitor, _ = listening.accept()
        with visitor:
            while data := visitor.recv(1 << 20):
                received += len(data)

    thread = threading.Thread(target=drain)
    thread.start()
    sending = within(client, lambda: socket.create_connection((address, PORT), 10))
    began = time.perf_counter()
    with sending:
        while time.perf_counter() - began < SECONDS:
            sending.sendall(BLOCK)
    thread.join()
    listening.close()
    return received * 8 / (time.perf_counter() - began) / 1e9


@contextlib.contextmanager
def named(name: str) -> Iterator[str]:
    process.run(["ip", "netns", "add", name], timeout=10)
    try:
        yield name
    finally:
        process.run(["ip", "netns", "delete", name], timeout=10)


if __name__ == "__main__":
    main()
