"""A job in a real machine: how it ends is how the run ends."""

from ghrunner_vm.errors import ExitCode
from tests import guests
from tests.lab import Lab


def test_a_job_that_succeeds(lab: Lab) -> None:
    job = lab.job("echo hello from $(id -un)")
    with lab.run() as run:
        assert run.wait_exit() == ExitCode.OK
    assert (run.result["outcome"], run.result["exit-code"], run.result["job-result"]) == ("job-done", 0, "Succeeded")
    assert (lab.finished(job).conclusion, lab.finished(job).log) == ("success", ["hello from runner"])
    told = [step for step in run.steps if step not in (None, "guest-log")]
    steps = "run image launched booting ready registered idle busy job-finished"
    assert told == [*steps.split(), "ended", "gone"] or told == [*steps.split(), "powering-off", "ended", "gone"]


def test_a_job_that_fails_is_a_run_that_worked(lab: Lab) -> None:
    job = lab.job("echo broken; exit 7")
    with lab.run() as run:
        assert run.wait_exit() == ExitCode.OK
    assert (run.outcome, run.result["job-result"]) == ("job-done", "Failed")
    assert (lab.finished(job).conclusion, lab.finished(job).log) == ("failure", ["broken"])


def test_a_job_that_takes_too_long_is_ended(lab: Lab) -> None:
    lab.job("sleep 100")
    with lab.run(timeout_seconds=1) as run:
        assert run.wait_exit() == ExitCode.JOB_TIMEOUT
    assert (run.outcome, lab.machines) == ("job-timeout", [])
    assert run.wait("gone").message == "GitHub still holds its registration: gc will ask again"
    lab.let_go_and_collect()


def test_a_runner_without_a_job_ends_at_its_idle_timeout(lab: Lab) -> None:
    with lab.run(idle_timeout_seconds=1) as run:
        assert run.wait_exit() == ExitCode.OK
    assert run.outcome == "idle-timeout"


def test_an_outage_of_github_does_not_end_a_job(lab: Lab) -> None:
    with lab.gate() as gate, lab.run("--poll-seconds", "1") as run:
        job = lab.job(gate.command)
        gate.wait_reached()
        lab.break_github()
        run.wait("trouble")
        lab.sim.faults.clear()
        gate.open()
        assert run.wait_exit() == ExitCode.OK
    assert (run.outcome, lab.finished(job).conclusion) == ("job-done", "success")


def test_a_job_that_powers_its_machine_off_is_lost(lab: Lab) -> None:
    with lab.run(image=guests.ROOT) as run:
        lab.job("poweroff -f")
        assert run.wait_exit() == ExitCode.ERROR
    assert run.outcome == "job-lost"
    lab.let_go_and_collect()


def test_a_kernel_panic_in_a_job_is_told_as_one(lab: Lab) -> None:
    with lab.run(image=guests.ROOT) as run:
        lab.job("echo c >/proc/sysrq-trigger")
        assert run.wait_exit() == ExitCode.ERROR
    assert run.outcome == "kernel-panic"
    assert any("sysrq triggered crash" in str(line.facts.get("details")) for line in run.lines)
    lab.let_go_and_collect()


def test_a_guest_that_never_speaks_meets_the_boot_timeout(lab: Lab) -> None:
    with lab.run(image=guests.SILENT, boot_timeout_seconds=3) as run:
        assert run.wait_exit() == ExitCode.NOT_UP
    assert run.outcome == "boot-timeout"


def test_a_kernel_panic_at_boot_is_a_machine_that_did_not_come_up(lab: Lab) -> None:
    with lab.run(image=guests.PANICKING) as run:
        assert run.wait_exit() == ExitCode.NOT_UP
    assert run.outcome in ("boot-failed", "kernel-panic")
    assert any("Kernel panic" in str(line.facts.get("details")) for line in run.lines)
