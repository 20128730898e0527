"""What may befall a host while a machine runs on it: processes stopped or killed, a full disk, a taken port."""

import os
import signal
import socket
from pathlib import Path

from ghrunner_vm.errors import ExitCode
from tests import guests
from tests.integration.mounts import small_disk
from tests.lab import Lab

_MIB = 1 << 20


def test_a_stopped_ghvm_loses_no_job(lab: Lab) -> None:
    """What ghvm serves to the guest pauses with it, so the job waits and goes on."""
    with lab.gate() as gate:
        job = lab.job(gate.command)
        with lab.run() as run:
            gate.wait_reached()
            run.send(signal.SIGSTOP)
            gate.open()
            run.send(signal.SIGCONT)
            assert lab.finished(job).conclusion == "success"
            assert run.wait_exit() == ExitCode.OK
    assert run.outcome == "job-done"


def test_a_qemu_that_dies_takes_the_job_with_it_and_nothing_else(lab: Lab) -> None:
    with lab.gate() as gate:
        lab.job(gate.command)
        with lab.run() as run:
            gate.wait_reached()
            os.kill(lab.machines[0], signal.SIGKILL)
            assert run.wait_exit() == ExitCode.INFRASTRUCTURE
    assert run.outcome == "vmm-crashed"
    assert "signal 9" in run.lines[-1].message or "signal 9" in str(run.lines[-1].facts)
    lab.let_go_and_collect()


def test_a_full_disk_ends_the_run_and_says_where_to_make_room(lab: Lab, tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", 64 * _MIB) as state:
        lab.job("head -c 200000000 /dev/urandom >/root/big; sync; sleep 1000")
        with lab.run("--state-dir", str(state), env={"GHVM_DISK_OVERCOMMIT": "100"}, image=guests.ROOT) as run:
            assert run.wait_exit() == ExitCode.INFRASTRUCTURE
        assert run.outcome == "disk-full"
        error = run.lines[-1].facts
        assert "--state-dir" in str(error["resolution"])
        assert list(state.rglob("overlay.qcow2")) == []
        for runner in lab.runners:  # GitHub keeps it for a while, since its job was running
            lab.sim.state.drop(runner.id)


def test_a_machine_for_which_there_is_no_room_is_refused_with_the_numbers(lab: Lab, tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", 64 * _MIB) as state, lab.run("--state-dir", str(state)) as run:
        assert run.wait_exit() == ExitCode.INFRASTRUCTURE
    assert "disk has not enough room" in run.lines[-1].message
    assert "This machine may write 1.0 GiB" in str(run.lines[-1].facts["details"])
    with lab.run(env={"GHVM_MEMORY_RESERVE": "1000000G"}) as run:
        assert run.wait_exit() == ExitCode.INFRASTRUCTURE
    assert "not enough memory" in run.lines[-1].message
    assert "launched" not in run.steps


def test_two_machines_at_once_each_count(lab: Lab) -> None:
    """The second is refused as long as the first one lives, and has its place after it."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    # One of these emulated machines takes 642 MiB with its VMM.
    room = {"GHVM_MEMORY_RESERVE": "0", "GHVM_MEMORY_OVERCOMMIT": str(1250 / (total >> 20))}
    with lab.gate() as gate, lab.run(env=room) as first:
        lab.job(gate.command)
        gate.wait_reached()
        with lab.run(env=room) as second:
            assert second.wait_exit() == ExitCode.INFRASTRUCTURE
        assert "1 other holds" in str(second.lines[-1].facts["details"])
        gate.open()
        assert first.wait_exit() == ExitCode.OK


def test_a_port_that_is_taken_is_named(lab: Lab) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with lab.run("--ssh-port", str(port)) as run:
            assert run.wait_exit() == ExitCode.INFRASTRUCTURE
    assert run.lines[-1].message == f"Port {port} of this host's loopback is taken"
    assert "--ssh-port" in str(run.lines[-1].facts["resolution"])
