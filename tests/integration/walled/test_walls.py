"""The wall around a guest's network: what a hostile job reaches from inside, and what is left of it outside.

Real namespaces, a real guest whose jobs run as root, and a small internet that answers from every forbidden place.
"""

import contextlib
import json
import os
import re
import signal
import subprocess  # noqa: TID251 the tests look at what ghvm prints
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from ghrunner_vm.network import rules
from tests import guests, hostile
from tests.harness import WAIT_SECONDS, Gate, children, proc
from tests.lab import GHVM, Lab
from tests.world import HOST, METADATA, OTHER_PUBLIC, PRIVATE, PUBLIC, ROUTER, World, second_uplink


def tried(lab: Lab, *script: str, flags: tuple[str, ...] = ()) -> dict[str, str]:
    """What a job that runs as root in its guest says of each address that it tries."""
    with lab.run(*flags, image=guests.ROOT) as run:
        job = lab.job("\n".join((hostile.TRY, *script)))
        assert run.wait_exit() == 0, run.transcript()
    return hostile.answers(lab.finished(job).log)


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


@contextlib.contextmanager
def gate(here: World) -> Iterator[tuple[Gate, tuple[str, ...]]]:
    """A gate on the host, and the flags by which a guest reaches it."""
    made = here.in_host(Gate)
    with contextlib.closing(made):
        yield made, ("--egress-allow", f"127.0.0.1:{made.port}")


@pytest.mark.parametrize("network", ["namespace", "user"])
def test_a_guest_reaches_the_internet_and_nothing_else(lab: Lab, network: str) -> None:
    """`user` is what an ordinary user has; as root it does without the host's packet filters."""
    forbidden = {
        "the host's loopback": f"10.0.2.2:{port_of(lab.images_url)}",
        "the host's address": HOST,
        "the host's end of the way out": "198.18.0.1",
        "its own end": "198.18.0.2",
        "link-local": METADATA,
        "a private network": PRIVATE,
        "its own gateway": "10.0.2.2",
        "a name of a private network": "private.example",
    }
    places = [PUBLIC, "public.example", *forbidden.values()]
    found = tried(lab, *(f"try {place}" for place in places), flags=("--network", network))
    assert found[PUBLIC] == f"this is {PUBLIC}"
    assert found["public.example"] == f"this is {PUBLIC}"
    assert {what: found[place] for what, place in forbidden.items()} == dict.fromkeys(forbidden, "no")

    (ended,) = json.loads(lab.ghvm("history", "--json").stdout)["runs"]
    assert {f"tcp {METADATA}:80", f"tcp {PRIVATE}:80", f"tcp {HOST}:80"} <= set(ended["refused"]["destinations"])
    assert f"tcp {METADATA}:80" in lab.ghvm("why").stdout
    assert f"Refused tcp {METADATA}:80" in lab.ghvm("logs", "--events").stdout


def test_what_is_allowed_and_denied(lab: Lab) -> None:
    flags = ("--egress-allow", f"{PRIVATE}:80", "--egress-allow", f"{HOST}:80", "--egress-deny", OTHER_PUBLIC)
    found = tried(lab, *(f"try {place}" for place in (PRIVATE, HOST, PUBLIC, OTHER_PUBLIC, METADATA)), flags=flags)
    assert found == {
        PRIVATE: f"this is {PRIVATE}",
        HOST: "this is host",
        PUBLIC: f"this is {PUBLIC}",
        OTHER_PUBLIC: "no",
        METADATA: "no",
    }


def test_only_what_is_listed_by_name(lab: Lab, here: World) -> None:
    flags = ("--egress", "listed", "--egress-allow", "*.public.example:80", "--egress-allow", "private.example")
    here.asked.clear()
    places = ("www.public.example", "other.example", "private.example", OTHER_PUBLIC)
    found = tried(lab, *(f"try {place}" for place in places), flags=flags)
    assert found == {"www.public.example": f"this is {PUBLIC}", **dict.fromkeys(places[1:], "no")}
    assert "other.example" not in here.asked, "a name that is not listed is not even asked for"


def test_what_a_guest_reached_is_learnt(lab: Lab) -> None:
    list_ = lab.directory / "learnt.toml"
    for places in (("public.example", METADATA), (OTHER_PUBLIC,)):
        tried(lab, *(f"try {place}" for place in places), flags=("--egress-learn", str(list_)))
    learnt = tomllib.loads(list_.read_text())
    github = f"127.0.0.1:{lab.sim.port}"
    assert learnt == {"egress": "listed", "egress-allow": [github, f"{OTHER_PUBLIC}:80", "public.example:80"]}
    flags = [flag for entry in learnt["egress-allow"] for flag in ("--egress-allow", entry)]
    found = tried(lab, "try public.example", f"try {METADATA}", flags=("--egress", "listed", *flags))
    assert found == {"public.example": f"this is {PUBLIC}", METADATA: "no"}


def test_games_with_addresses(lab: Lab) -> None:
    found = tried(lab, hostile.ADDRESS_GAMES, "try public.example")
    assert found == {**hostile.ADDRESS_GAMES_LOST, "public.example": f"this is {PUBLIC}"}
    (ended,) = json.loads(lab.ghvm("history", "--json").stdout)["runs"]
    assert ended["refused"]["spoofed"] > 0


def test_two_guests_do_not_reach_each_other(lab: Lab, here: World) -> None:
    with gate(here) as (barrier, flags), lab.run(*flags, image=guests.ROOT) as first:
        lab.job(f"setsid nc -l -p 80 >/dev/null 2>&1 & {barrier.command}")
        barrier.wait_reached()
        links = [link["ifname"] for link in json.loads(here.ip("-json", "link")) if "ghvm" in link["ifname"]]
        assert len(links) == 1
        at = 4 * int(links[0].removeprefix("ghvm")) + 2
        found = tried(lab, f"try 198.18.0.{at}", "try 10.0.2.15")
        assert found == {f"198.18.0.{at}": "no", "10.0.2.15": "no"}
        barrier.open()
        assert first.wait_exit() == 0


def test_nothing_is_left_after_sigkill(lab: Lab, here: World) -> None:
    with gate(here) as (barrier, flags):
        with lab.run(*flags) as run:
            lab.job(barrier.command)
            barrier.wait_reached()
            clerks = [pid for pid in children(run.pid) if b"clerk.py" in proc(pid, "cmdline")]
            assert len(clerks) == 1
            run.send(signal.SIGKILL)
            run.wait_exit()
        lab.let_go_and_collect()
    assert here.ours() == []
    assert here.setting("ipv4/conf/eth0/forwarding") == "0"
    assert not [pid for pid in clerks if proc(pid, "cmdline")]


def test_the_uplink_goes_and_comes_back(lab: Lab, here: World) -> None:
    with gate(here) as (barrier, flags), lab.run(*flags, image=guests.ROOT) as run:
        job = lab.job(f"{hostile.TRY}\ntry {PUBLIC}\n{barrier.command}\ntry {PUBLIC}")
        barrier.wait_reached()
        here.ip("link", "set", "eth0", "down")
        here.ip("link", "set", "eth0", "up")
        here.ip("route", "add", "default", "via", ROUTER)
        barrier.open()
        assert run.wait_exit() == 0
    assert lab.finished(job).log.count(f"{PUBLIC}: this is {PUBLIC}") == 2


def test_a_dead_name_server_is_told_the_guest_at_once(lab: Lab) -> None:
    found = tried(lab, "try public.example", f"try {PUBLIC}", flags=("--resolvers", "127.0.0.99"))
    assert found == {"public.example": "no", PUBLIC: f"this is {PUBLIC}"}


@pytest.mark.parametrize("mtu", [1400, 9000])
def test_the_guest_gets_the_uplinks_mtu(lab: Lab, here: World, mtu: int) -> None:
    here.ip("link", "set", "eth0", "mtu", str(mtu))
    try:
        found = tried(lab, 'echo "mtu: $(cat /sys/class/net/eth0/mtu)"')
    finally:
        here.ip("link", "set", "eth0", "mtu", "1500")
    assert found == {"mtu": str(mtu)}


def test_an_uplink_that_is_not_the_default(lab: Lab, here: World) -> None:
    """The guest goes out by it, and the host does not."""
    missing = ("--uplink", "eth9")
    with lab.run(*missing) as run:
        assert run.wait_exit() == 5
    with second_uplink(here):
        found = tried(lab, f"try {PUBLIC}", flags=("--uplink", "eth1"))
        assert found == {PUBLIC: "this is the other world"}
    rules = json.loads(here.ip("-json", "rule", "show"))
    assert [rule for rule in rules if "ghvm" in rule.get("iif", "")] == []


def test_networks_of_the_host_in_the_pool(lab: Lab, here: World) -> None:
    """An address that the host uses is not taken; where all are, a person is told."""
    here.ip("address", "add", "198.18.0.1/29", "dev", "lo")
    try:
        assert tried(lab, f"try {PUBLIC}") == {PUBLIC: f"this is {PUBLIC}"}
        with lab.run("--network-pool", "198.18.0.0/29") as run:
            assert run.wait_exit() == 5
        assert "network-pool" in str(run.lines[-1].facts["resolution"])
    finally:
        here.ip("address", "delete", "198.18.0.1/29", "dev", "lo")


def test_what_the_host_redirects_is_judged_again(lab: Lab, here: World) -> None:
    """As Docker does with the published port of a container."""
    here.nft(
        "add table ip published; add chain ip published in { type nat hook prerouting priority dstnat; };"
        f"add rule ip published in ip daddr {OTHER_PUBLIC} tcp dport 80 dnat to {PRIVATE}"
    )
    try:
        assert tried(lab, f"try {OTHER_PUBLIC}", f"try {PUBLIC}") == {OTHER_PUBLIC: "no", PUBLIC: f"this is {PUBLIC}"}
    finally:
        here.nft("delete table ip published")


def test_the_hosts_table_of_connections_forgets_a_guest(lab: Lab, here: World) -> None:
    with gate(here) as (barrier, flags), lab.run(*flags, image=guests.ROOT) as run:
        lab.job(f"{hostile.TRY}\ntry {PUBLIC}\n{barrier.command}")
        barrier.wait_reached()
        assert here.in_host(marked) > 0
        barrier.open()
        assert run.wait_exit() == 0
    assert here.in_host(marked) == 0


def marked() -> int:
    """Connections of guests in the kernel's table, of this thread's namespace."""
    table = Path("/proc/thread-self/net/nf_conntrack").read_text(encoding="ascii")
    return sum(f" mark={rules.mark(f'ghvm{number}')} " in line for line in table.splitlines() for number in range(4))


def test_a_host_that_did_not_route_does_so_for_guests_only(lab: Lab, here: World) -> None:
    """Also while two uplinks are in use, and if somebody flushes all packet filters meanwhile."""
    with second_uplink(here):
        with gate(here) as (barrier, flags), lab.run(*flags) as run:
            lab.job(barrier.command)
            barrier.wait_reached()
            assert tried(lab, f"try {PUBLIC}", flags=("--uplink", "eth1")) == {PUBLIC: "this is the other world"}
            tables = here.nft("list", "tables")
            assert len(re.findall(r"ghvm-guard-\d+", tables)) == 2
            assert [here.setting(f"ipv4/conf/{name}/forwarding") for name in ("eth0", "eth1")] == ["1", "1"]
            here.nft("flush", "ruleset")
            barrier.open()
            assert run.wait_exit() == 0
        assert [here.setting(f"ipv4/conf/{name}/forwarding") for name in ("eth0", "eth1")] == ["0", "0"]
    assert " table 1980" not in here.ip("route", "show", "table", "all")


def test_no_network_at_all(lab: Lab) -> None:
    """Its guest boots and takes its registration; with nothing to reach, its listener fails."""
    with lab.run("--network", "none", idle_timeout_seconds=5) as run:
        run.wait("registered")
        run.send(signal.SIGTERM)
        assert run.wait_exit() == 0


_ATTEMPT = """
import json, sys
from pathlib import Path
from ghrunner_vm.simulator.walls import attempt
places = {name: (name, 80) for name in sys.argv[2:]}
print(json.dumps(dict(attempt(places, Path(sys.argv[1]), ["--accel", "tcg", "--egress-allow", sys.argv[2]]))))
"""


def test_doctor_has_a_guest_try_the_walls(here: World, images: Path, kept: Path, tmp_path: Path) -> None:
    """It finds them closed; where there is a hole it says so."""
    assert images.is_relative_to(kept), "the tiny image is made already"
    (tmp_path / "ghvm").mkdir()
    (tmp_path / "ghvm/demo").symlink_to(kept)

    def on_host(*words: str) -> str:
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
        argv = [*here.on_host, *words]
        return subprocess.run(
            argv, capture_output=True, text=True, check=False, timeout=WAIT_SECONDS, env=environment
        ).stdout

    told = on_host(*GHVM, "doctor", "--walls", "--json", "--state-dir", str(tmp_path / "state"))
    found = {one["found"]: one["status"] for one in json.loads(told)["checks"] if one["name"] == "walls"}
    assert found == {
        "a guest does not reach this host's loopback": "ok",
        f"a guest does not reach this host at {HOST}": "ok",
        "a guest does not reach link-local addresses": "ok",
    }
    assert json.loads(on_host(sys.executable, "-c", _ATTEMPT, str(kept), METADATA, PRIVATE)) == {
        METADATA: True,
        PRIVATE: False,
    }
