"""The wall around a guest on KVM: what a hostile job reaches, what QEMU itself may do, and what a crash leaves."""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ghrunner_vm import process
from ghrunner_vm.images.server import serve
from ghrunner_vm.simulator.server import Simulator
from tests import guests, hostile
from tests.harness import Gate, children, proc
from tests.kvm.inside import SECONDS
from tests.lab import GHVM, Lab
from tests.world import HOST, METADATA, PRIVATE, PUBLIC, World, world

_DISK = "300M"
"""Two of them are promised at once, on a host whose own disk is small."""
_FORBIDDEN = {
    "the host's address": HOST,
    "the host's end of the way out": "198.18.0.1",
    "its own gateway": "10.0.2.2",
    "link-local": METADATA,
    "a private network": PRIVATE,
}


@pytest.fixture
def here(tmp_path: Path) -> Iterator[World]:
    """A small world."""
    (tmp_path / "host").mkdir()
    Path("/var/lib/ghvm").mkdir(exist_ok=True)
    with world(tmp_path / "host") as made:
        yield made


@pytest.fixture
def walled(lab: Lab, here: World, images: Path) -> Iterator[Lab]:
    """The lab with its servers and its ghvm on the host of that world."""
    with contextlib.ExitStack() as stack:
        simulator = here.in_host(Simulator)
        here.in_host(simulator.__enter__)
        stack.push(simulator)
        (lab.directory / "key.pem").write_text(simulator.private_key_pem, encoding="utf-8")
        serving = serve(images, cache_dir=lab.directory / "compressed")
        service = here.in_host(serving.__enter__)
        stack.push(serving)
        service.wait_ready(SECONDS)
        reach = ("--egress-allow", f"127.0.0.1:{simulator.port}", "--resolvers", "127.0.0.1")
        yield replace(lab, sim=simulator, images_url=service.url, program=(*here.on_host, *GHVM), reach=reach)


@pytest.fixture
def gate(here: World) -> Iterator[Gate]:
    """Something on the host for a job to wait for."""
    with contextlib.closing(here.in_host(Gate)) as made:
        yield made


def test_a_hostile_guest_reaches_the_internet_and_nothing_else(walled: Lab, here: World, gate: Gate) -> None:
    """It has root, another guest beside it, and floods whatever leads to the host."""
    to_gate = ("--egress-allow", f"127.0.0.1:{gate.port}")
    with walled.run(*to_gate, image=guests.ROOT, root_disk=_DISK) as beside:
        walled.job(f"setsid nc -l -p 80 >/dev/null 2>&1 & {gate.command}")
        gate.wait_reached(SECONDS)
        (other,) = walled.machines
        (link,) = (name for name in here.ours() if re.fullmatch(r"ghvm\d+", name))
        neighbour = f"198.18.0.{4 * int(link.removeprefix('ghvm')) + 2}"
        loopback = f"10.0.2.2:{walled.images_url.rpartition(':')[2]}"
        places = [PUBLIC, "public.example", loopback, neighbour, *_FORBIDDEN.values()]
        tries = [hostile.TRY, *(f"try {place}" for place in places), hostile.ADDRESS_GAMES]
        takes = [hostile.LEAVE_AT_THE_END, hostile.TAKE_THE_CHANNEL, hostile.CLAIMS, hostile.FLOOD_THE_CHANNEL]
        with walled.run(image=guests.ROOT, root_disk=_DISK, timeout_seconds=250) as run:
            job = walled.job("\n".join([*tries, *takes, hostile.FLOOD_THE_CONSOLE_A_LITTLE]))
            run.wait("channel-closed", SECONDS)
            (qemu,) = set(walled.machines) - {other}
            _check_privileges(qemu)
            assert run.wait_exit(SECONDS) == 0, run.transcript()
        assert hostile.answers(walled.finished(job).log) == {
            **dict.fromkeys((loopback, neighbour, *_FORBIDDEN.values()), "no"),
            **dict.fromkeys((PUBLIC, "public.example"), f"this is {PUBLIC}"),
            **hostile.ADDRESS_GAMES_LOST,
        }
        assert run.outcome == "job-done"
        gate.open()
        assert beside.wait_exit(SECONDS) == 0, beside.transcript()
    assert here.ours() == []


def test_gc_leaves_nothing_of_a_killed_run(walled: Lab, here: World, gate: Gate) -> None:
    """No process, namespace, interface, rule or registration."""
    before = _namespaces()
    with walled.run("--egress-allow", f"127.0.0.1:{gate.port}") as run:
        walled.job(gate.command)
        gate.wait_reached(SECONDS)
        (qemu,) = walled.machines
        assert here.ours() != []
        run.die(qemu, *children(run.pid))
        run.wait_exit(SECONDS)
    assert len(walled.runs) == 1
    walled.let_go_and_collect()
    assert here.ours() == []
    assert _namespaces() == before


def _namespaces() -> str:
    """The network namespaces of all processes."""
    return process.run(["lsns", "--type", "net", "--noheadings", "--output", "ns"], timeout=SECONDS)


def _check_privileges(qemu: int) -> None:
    status = dict(line.split(":\t", 1) for line in proc(qemu, "status").decode().splitlines() if ":\t" in line)
    assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1")
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert not re.match(r"0\b", status["Uid"])
