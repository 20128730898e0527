"""What is left when `ghvm run` is killed, and how `ghvm gc` clears it up."""

import signal
import threading

from ghrunner_vm.errors import ExitCode
from tests.lab import Lab


def test_gc_removes_what_a_killed_run_left_once_github_lets_it_go(lab: Lab) -> None:
    with lab.gate() as gate, lab.run() as run:
        lab.job(gate.command)
        gate.wait_reached()
        (qemu,) = lab.machines
        run.die(qemu)
        assert run.wait_exit() == -signal.SIGKILL
    (left,) = lab.runs
    assert lab.gc() == (ExitCode.INFRASTRUCTURE, {left.name: "pending"})
    assert [line.split()[0] for line in lab.leftovers()] == ["run", "registration"]
    assert not (left / "overlay.qcow2").exists()
    lab.let_go_and_collect()


def test_gc_leaves_a_live_run_alone(lab: Lab) -> None:
    job = lab.job("true")
    with lab.run() as run:
        run.wait("launched")
        assert lab.gc() == (ExitCode.OK, {})
        assert run.wait_exit() == ExitCode.OK
    assert (run.outcome, lab.finished(job).conclusion) == ("job-done", "success")


def test_the_next_run_clears_up_after_a_killed_one(lab: Lab) -> None:
    with lab.run() as killed:
        killed.wait("idle")
        killed.send(signal.SIGKILL)
        killed.wait_exit()
    with lab.run(idle_timeout_seconds=1) as run:
        assert run.wait_exit() == ExitCode.OK
    assert (lab.runs, lab.runners) == ([], [])


def test_gc_beside_a_run_harms_nothing_from_its_first_step_to_its_last(lab: Lab) -> None:
    """Again and again, as fast as it can, while the run begins, works and clears up after itself."""
    job = lab.job("true")
    over = threading.Event()
    codes: list[int] = []

    def collect() -> None:
        while not over.is_set():
            codes.append(lab.gc()[0])

    collecting = threading.Thread(target=collect)
    collecting.start()
    try:
        with lab.run() as run:
            assert run.wait_exit() == ExitCode.OK
    finally:
        over.set()
        collecting.join()
    assert run.outcome == "job-done"
    assert lab.finished(job).conclusion == "success"
    assert len(codes) > 2
    assert set(codes) == {ExitCode.OK}
