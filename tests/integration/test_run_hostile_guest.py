"""Guests that fail, lie and flood: one clear error with what to do, the documented exit code, nothing left behind."""

from ghrunner_vm.errors import ExitCode
from tests import guests, hostile
from tests.harness import GhvmRun
from tests.lab import Lab


def _error(run: GhvmRun) -> tuple[str, str, str]:
    """The last line: what happened, the details, what to do."""
    facts = run.lines[-1].facts
    assert facts["level"] == "error"
    return str(facts["message"]), str(facts["details"]), str(facts["resolution"])


def test_a_guest_that_is_never_ready(lab: Lab) -> None:
    with lab.run(image=guests.SILENT, boot_timeout_seconds=8) as run:
        assert run.wait_exit() == ExitCode.NOT_UP
    brief, details, resolution = _error(run)
    assert run.outcome == "boot-timeout"
    assert "boot timeout" in brief
    assert "waiting for a disk" in details
    assert "boot-timeout-seconds" in resolution
    assert "registered" not in run.steps


def test_a_guest_that_would_be_ready_later_is_not_registered(lab: Lab) -> None:
    with lab.run(boot_timeout_seconds=1) as run:
        assert run.wait_exit() == ExitCode.NOT_UP
    assert run.outcome == "boot-timeout"
    assert "registered" not in run.steps


def test_a_guest_that_restarts_as_soon_as_it_is_up_does_so_once(lab: Lab) -> None:
    with lab.run(image=guests.RESTARTING) as run:
        assert run.wait_exit() == ExitCode.NOT_UP
    _, details, resolution = _error(run)
    assert run.outcome == "boot-failed"
    assert "reset by the guest" in details
    assert "restarts while it boots" in resolution


def test_a_guest_that_gets_a_damaged_registration_refuses_it(lab: Lab) -> None:
    with lab.run(image=guests.REFUSING) as run:
        assert run.wait_exit() == ExitCode.NOT_UP
    _, details, resolution = _error(run)
    assert run.outcome == "refused"
    assert "sha256 is not the one announced" in details
    assert "build the image anew" in resolution
    assert "idle" not in run.steps


def test_a_guest_that_restarts_in_its_job(lab: Lab) -> None:
    with lab.run(image=guests.ROOT) as run:
        lab.job("reboot -f")
        assert run.wait_exit() == ExitCode.ERROR
    _, details, resolution = _error(run)
    assert run.outcome == "job-lost"
    assert "reset by the guest" in details
    assert "start it again" in resolution
    lab.let_go_and_collect()


def test_a_listener_that_dies_in_its_job(lab: Lab) -> None:
    with lab.run(image=guests.ROOT) as run:
        lab.job("killall -9 Runner.Listener; sleep 100")
        assert run.wait_exit() == ExitCode.ERROR
    _, details, _ = _error(run)
    assert run.outcome == "job-lost"
    assert "exited with code 137" in details
    lab.let_go_and_collect()


def test_a_panic_drives_no_terminal(lab: Lab) -> None:
    """What is told of it goes to a person, with the guest's last words."""
    mischief = r"printf '\033[2J\033]0;owned\007\233 last words\n' >/dev/ttyS0; echo c >/proc/sysrq-trigger"
    with lab.run("--log-format", "text", image=guests.ROOT) as run:
        lab.job(mischief)
        assert run.wait_exit() == ExitCode.ERROR
    told = run.transcript()
    assert "kernel panicked" in told
    assert "last words" in told
    assert "Look at its console" in told
    assert all(letter.isprintable() or letter == "\n" for letter in told)
    lab.let_go_and_collect()


def test_a_flood_costs_the_guest_its_channel_and_not_its_job(lab: Lab) -> None:
    with lab.gate() as gate, lab.run("--poll-seconds", "1", image=guests.FLOODING) as run:
        job = lab.job(gate.command)
        gate.wait_reached()
        assert "garbage" in run.wait("channel-closed").message
        gate.open()
        assert run.wait_exit() == ExitCode.OK
    assert (run.outcome, lab.finished(job).conclusion) == ("job-done", "success")


def test_what_root_in_a_job_claims_neither_ends_the_job_nor_its_run(lab: Lab) -> None:
    script = [hostile.LEAVE_AT_THE_END, hostile.FLOOD_THE_CONSOLE, hostile.TAKE_THE_CHANNEL, hostile.CLAIMS]
    with lab.gate() as gate, lab.run("--poll-seconds", "1", image=guests.ROOT) as run:
        job = lab.job("\n".join([*script, gate.command, hostile.FLOOD_THE_CHANNEL]))
        gate.wait_reached()
        run.wait("job-finished")
        assert (len(lab.machines), [runner.busy for runner in lab.runners]) == (1, [True])
        assert "channel-closed" not in run.steps
        gate.open()
        assert "line without end" in run.wait("channel-closed").message
        assert run.wait_exit() == ExitCode.OK
    assert (run.outcome, lab.finished(job).conclusion) == ("job-done", "success")
    assert run.steps.count("registered") == 1
