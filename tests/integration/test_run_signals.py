"""Signals to a run: a drain loses no job, an interrupt ends whatever runs."""

import signal
from pathlib import Path

import pytest

from ghrunner_vm.errors import ExitCode
from ghrunner_vm.simulator.faults import Rule
from tests import guests
from tests.integration.images_site import site
from tests.lab import Lab

_STUBBORN = "killall -STOP agent"
"""Shell text for a job that runs as root: the guest will not power off when it is asked to."""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_drain_of_an_idle_run_deletes_its_registration(lab: Lab, number: signal.Signals) -> None:
    with lab.run() as run:
        run.wait("idle")
        run.send(number)
        assert run.wait_exit() == ExitCode.OK
    assert (run.outcome, lab.runners) == ("drained", [])


def test_a_drain_of_a_busy_run_lets_its_job_finish(lab: Lab) -> None:
    with lab.gate() as gate, lab.run() as run:
        job = lab.job(gate.command)
        gate.wait_reached()
        run.wait("busy")
        run.send(signal.SIGTERM)
        run.wait("drain")
        gate.open()
        assert run.wait_exit() == ExitCode.OK
    assert (run.outcome, lab.finished(job).conclusion) == ("job-done", "success")


def test_a_terminal_that_is_closed_in_the_middle_of_a_job_costs_nothing(lab: Lab) -> None:
    with lab.gate() as gate, lab.run(deaf_after="busy") as run:
        job = lab.job(gate.command)
        gate.wait_reached()
        run.wait("busy")
        run.send(signal.SIGHUP)
        gate.open()
        assert run.wait_exit() == ExitCode.OK
    assert "drain" not in run.steps
    assert (run.outcome, lab.finished(job).conclusion) == ("job-done", "success")


def test_a_job_assigned_just_before_a_drain_is_not_lost(lab: Lab) -> None:
    # The listener gets no messages for now and GitHub is not polled: only the refused deletion can tell of the job.
    lab.sim.faults.add(Rule(path="*/message", status=503))
    with lab.run("--poll-seconds", "3600") as run:
        run.wait("idle")
        job = lab.sim.state.enqueue(labels=["nobody-has-this"], run="true")
        lab.sim.state.assign(job.id, lab.runners[0].id)
        run.send(signal.SIGTERM)
        run.wait("busy")
        lab.sim.faults.clear()
        assert run.wait_exit() == ExitCode.OK
    assert run.steps.index("draining") < run.steps.index("busy")
    assert (run.outcome, lab.finished(job).conclusion) == ("job-done", "success")


def test_an_interrupt_ends_a_job(lab: Lab) -> None:
    with lab.gate() as gate, lab.run() as run:
        lab.job(gate.command)
        gate.wait_reached()
        run.wait("busy")
        run.send(signal.SIGINT)
        assert run.wait_exit() == ExitCode.INTERRUPTED
    assert (run.outcome, lab.machines) == ("interrupted", [])
    lab.let_go_and_collect()


def test_a_second_interrupt_does_not_wait_for_a_stubborn_guest(lab: Lab) -> None:
    with lab.gate() as gate, lab.run("--poll-seconds", "1", image=guests.ROOT) as run:
        lab.job(f"{_STUBBORN}; {gate.command}")
        gate.wait_reached()
        run.wait("busy")
        run.send(signal.SIGINT)
        run.wait("powering-off")
        run.send(signal.SIGINT)
        assert run.wait_exit() == ExitCode.INTERRUPTED
    assert "killing" in run.steps
    assert (run.outcome, lab.machines, len(lab.runners), len(lab.runs)) == ("interrupted", [], 1, 1)
    lab.let_go_and_collect()


def test_an_interrupt_ends_a_pull_that_hangs(lab: Lab, images: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cold"
    with site() as server:
        guests.offer(server, images)
        server.hold_after = 100_000
        with lab.run("--images-server", server.url, "--images-cache-dir", str(cache)) as run:
            assert server.held.wait(60)
            run.send(signal.SIGINT)
            assert run.wait_exit(timeout=15) == ExitCode.INTERRUPTED
    assert run.outcome == "interrupted"
    assert [entry.name for entry in cache.iterdir()] == [".staging"]
