"""The wall around a guest on KVM: what a hostile job reaches, and what QEMU itself may do."""

import contextlib
import re
from dataclasses import replace
from pathlib import Path

from ghrunner_vm.images.server import serve
from ghrunner_vm.simulator.server import Simulator
from tests import guests
from tests.harness import proc
from tests.kvm.inside import SECONDS
from tests.lab import GHVM, Lab
from tests.world import HOST, METADATA, PRIVATE, PUBLIC, World, world

_TRY = r"""
try() { echo "$1: $(timeout 20 wget -q -O - "http://$1/" 2>/dev/null || echo no)"; }
"""
_FORBIDDEN = {
    "the host's address": HOST,
    "the host's end of the way out": "198.18.0.1",
    "its own gateway": "10.0.2.2",
    "link-local": METADATA,
    "a private network": PRIVATE,
}


def _moved(lab: Lab, here: World, images: Path, stack: contextlib.ExitStack) -> Lab:
    """The lab with its servers and its ghvm on the host of a small world."""
    simulator = here.in_host(Simulator)
    here.in_host(simulator.__enter__)
    stack.push(simulator)
    (lab.directory / "key.pem").write_text(simulator.private_key_pem, encoding="utf-8")
    serving = serve(images, cache_dir=lab.directory / "compressed")
    service = here.in_host(serving.__enter__)
    stack.push(serving)
    service.wait_ready(SECONDS)
    reach = ("--egress-allow", f"127.0.0.1:{simulator.port}", "--resolvers", "127.0.0.1")
    return replace(lab, sim=simulator, images_url=service.url, program=(*here.on_host, *GHVM), reach=reach)


def test_a_hostile_guest_reaches_the_internet_and_nothing_else(lab: Lab, images: Path, tmp_path: Path) -> None:
    (tmp_path / "host").mkdir()
    Path("/var/lib/ghvm").mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        here = stack.enter_context(world(tmp_path / "host"))
        moved = _moved(lab, here, images, stack)
        loopback = f"10.0.2.2:{moved.images_url.rpartition(':')[2]}"
        places = [PUBLIC, "public.example", loopback, *_FORBIDDEN.values()]
        with moved.run(image=guests.ROOT) as run:
            job = moved.job("\n".join((_TRY, *(f"try {place}" for place in places))))
            run.wait("busy", SECONDS)
            (qemu,) = moved.machines
            status = dict(line.split(":\t", 1) for line in proc(qemu, "status").decode().splitlines() if ":\t" in line)
            assert run.wait_exit(SECONDS) == 0, run.transcript()
        said = dict(line.split(": ", 1) for line in moved.finished(job).log if ": " in line)
        assert said == {
            **dict.fromkeys((loopback, *_FORBIDDEN.values()), "no"),
            **dict.fromkeys((PUBLIC, "public.example"), f"this is {PUBLIC}"),
        }
        assert here.ours() == []
    assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1")
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert not re.match(r"0\b", status["Uid"])
