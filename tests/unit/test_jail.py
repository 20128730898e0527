"""User ids for virtual machines, and how these lose their privileges."""

import asyncio
import os
import shlex
from pathlib import Path
from subprocess import DEVNULL  # noqa: TID251 a constant: nothing is started with it

import pytest

from ghrunner_vm import process
from ghrunner_vm.errors import InfrastructureError
from ghrunner_vm.vm.jail import Identity, confined, lease_identity

BASE = 1_900_000_000
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give ids away")


@as_root
def test_two_leases_differ_and_the_third_finds_none(tmp_path: Path) -> None:
    with lease_identity(tmp_path, BASE, 2) as one:
        with lease_identity(tmp_path, BASE, 2) as two:
            assert [one.uid, two.uid] == [BASE, BASE + 1]
            with pytest.raises(InfrastructureError, match="No user id is free"), lease_identity(tmp_path, BASE, 2):
                pass
        with lease_identity(tmp_path, BASE, 2) as again:
            assert again.uid == BASE + 1


@as_root
def test_an_id_is_free_only_when_its_last_holder_has_died(tmp_path: Path) -> None:
    with lease_identity(tmp_path, BASE, 2) as lease:
        assert lease.lock is not None
        child = process.start(["sleep", "1000"], inherit=[lease.lock], stderr=DEVNULL)
        holder = child.__enter__()
    try:
        with lease_identity(tmp_path, BASE, 2) as other:
            assert other.uid == BASE + 1
        holder.kill()
        asyncio.run(holder.wait())
        with lease_identity(tmp_path, BASE, 2) as freed:
            assert freed.uid == BASE
    finally:
        child.__exit__(None, None, None)


def test_others_run_it_as_themselves(tmp_path: Path) -> None:
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        with lease_identity(tmp_path, BASE, 2) as lease:
            assert lease == Identity(None)
    finally:
        os.seteuid(before)


def test_the_command_of_those_who_are_not_root() -> None:
    words = ["setpriv", "--no-new-privs", "--pdeathsig", "KILL", "--", "qemu", "-x"]
    assert confined(["qemu", "-x"], Identity(None)) == words


def test_the_command_of_root() -> None:
    words = [
        *("setpriv", "--no-new-privs", "--pdeathsig", "KILL", "--reuid", "7", "--regid", "7", "--clear-groups"),
        *("--inh-caps=-all", "--bounding-set=-all", "--", "qemu"),
    ]
    assert confined(["qemu"], Identity(7), ["/dev/no-such-device"]) == words


@as_root
def test_a_device_is_reached_through_its_group_unless_that_is_roots(tmp_path: Path) -> None:
    for name, group in (("kvm", 4321), ("roots", 0)):
        (tmp_path / name).write_text("")
        os.chown(tmp_path / name, 0, group)
    argv = confined(["true"], Identity(7), [str(tmp_path / "kvm"), str(tmp_path / "roots")])
    assert argv[argv.index("--groups") + 1] == "4321"


@as_root
def test_nothing_is_left_of_root() -> None:
    said = process.run(confined(["cat", "/proc/self/status"], Identity(BASE)), timeout=30)
    status = dict(line.split(":\t", 1) for line in said.splitlines() if ":\t" in line)
    assert status["Uid"].split() == [str(BASE)] * 4
    assert status["Gid"].split() == [str(BASE)] * 4
    assert status["Groups"].split() == []
    assert status["NoNewPrivs"] == "1"
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}


def test_it_dies_with_its_parent(tmp_path: Path) -> None:
    """The shell in between starts it and is killed: the end of the pipe is the end of all that hold it."""
    os.mkfifo(tmp_path / "up")
    argv = confined(["sh", "-c", f"echo up >{tmp_path}/up; exec sleep 1000"], Identity(None))
    read, write = os.pipe()
    with open(read, "rb") as pipe:  # noqa: PTH123 a descriptor
        with process.start(["sh", "-c", f"{shlex.join(argv)} & wait"], inherit=[write], stderr=DEVNULL):
            os.close(write)
            # It is up only after setpriv has set the signal; a parent that dies before that is gc's case.
            assert (tmp_path / "up").read_text() == "up\n"
        assert pipe.read() == b""
