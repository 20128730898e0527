"""Entering a guest while the disk of its host is full: that is when a person wants to."""

import asyncio
import contextlib
from pathlib import Path

from ghrunner_vm import process
from ghrunner_vm.commands.ssh import _known_hosts
from ghrunner_vm.lifecycle.control import OpenSsh
from ghrunner_vm.lifecycle.network import Open
from ghrunner_vm.record import read_record
from ghrunner_vm.vm.base import UserNetwork
from tests.unit.test_ledger import Host, record
from tests.unit.test_session import Scene, scene

__all__ = ["scene"]  # a fixture
SECONDS = 30.0


class Forwarding:
    """The part of a machine that opens ports."""

    def __init__(self) -> None:
        self.opened = 0

    has_ssh = False

    async def forward_ssh(self, _port: int = 0) -> int:
        self.opened += 1
        return 2200 + self.opened


def test_a_port_that_cannot_be_recorded_is_known_all_the_same(scene: Scene) -> None:
    run, machine = scene.session._run, Forwarding()
    assert run is not None
    scene.session._machine = machine  # type: ignore[assignment]
    scene.session._network = Open(UserNetwork())
    written, run.path = run.path, run.path / "missing"

    async def twice() -> list[object]:
        return [(await scene.session._control(OpenSsh(do="ssh")))["port"] for _ in range(2)]

    assert asyncio.run(twice()) == [2201, 2201]
    run.path = written
    run.update(phase="idle")
    kept = read_record(run.path)
    assert kept is not None
    assert kept.ssh_port == 2201


def test_a_host_key_that_cannot_be_written_is_read_from_memory(tmp_path: Path) -> None:
    host = Host(tmp_path)
    path = host.put(record("demo-0001"))
    (entry,) = host.ledger.live()
    with _known_hosts(entry, "ssh-ed25519 AAAA") as known:
        assert known == path / "known_hosts"
        assert known.read_text() == "demo-0001 ssh-ed25519 AAAA\n"
    with contextlib.ExitStack() as stack:
        path.rename(tmp_path / "moved")  # no file can be made there, not even by root
        known = stack.enter_context(_known_hosts(entry, "ssh-ed25519 AAAA"))
        assert process.run(["cat", str(known)], timeout=SECONDS) == "demo-0001 ssh-ed25519 AAAA\n"
