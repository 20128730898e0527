"""Why a run ended, from its record and from the last words of its guest."""

import pytest

from ghrunner_vm.errors import ExitCode
from ghrunner_vm.lifecycle.outcome import Outcome
from ghrunner_vm.lifecycle.reason import LastWords, Reason, Why, why
from ghrunner_vm.record import FailureRecord, ProcessRecord, RefusedRecord, RunRecord

OOM = "[   12.3] Out of memory: Killed process 321 (node) total-vm:1234kB"
FULL = "tar: write error: No space left on device"
OFFLINE = "curl: (6) Could not resolve host: github.com"
PANIC = "[    1.0] Kernel panic - not syncing: VFS: Unable to mount root fs"


def record(outcome: Outcome | None = None, **fields: object) -> RunRecord:
    supervisor = ProcessRecord.of(pid=2, started=0)
    known = {"boot_id": "b", "supervisor": supervisor, "label": "l", "image": "i", "since": 0.0, "created": 0.0}
    return RunRecord.of(id="run-1", outcome=outcome.label if outcome else None, **known, **fields)


def failure(kind: str, code: int) -> FailureRecord:
    return FailureRecord.of(kind=kind, brief="it broke", details="one\ntwo", resolution="mend it", exit_code=code)


@pytest.mark.parametrize("outcome", Outcome)
def test_every_outcome_has_a_reason_and_what_to_do(outcome: Outcome) -> None:
    found = why(record(outcome), LastWords())
    assert found.words == outcome.words
    assert found.advice == outcome.advice
    assert (found.reason in (Reason.JOB_DONE, Reason.NO_JOB, Reason.REGISTRATION_LOST)) or outcome.exit_code != 0


@pytest.mark.parametrize(
    ("outcome", "said", "reason"),
    [
        (Outcome.JOB_LOST, LastWords(console=OOM), Reason.OUT_OF_MEMORY),
        (Outcome.JOB_TIMEOUT, LastWords(console=OOM), Reason.OUT_OF_MEMORY),
        (Outcome.PANICKED, LastWords(console=f"{OOM}\n{PANIC}"), Reason.OUT_OF_MEMORY),
        (Outcome.PANICKED, LastWords(console=PANIC), Reason.KERNEL_PANIC),
        (Outcome.JOB_LOST, LastWords(runner=FULL), Reason.DISK_FULL),
        (Outcome.LISTENER_FAILED, LastWords(runner=OFFLINE), Reason.NETWORK),
        (Outcome.LISTENER_FAILED, LastWords(console=OFFLINE), Reason.GUEST_FAILED),
        (Outcome.JOB_LOST, LastWords(runner=OOM), Reason.GUEST_FAILED),
        (Outcome.DRAINED, LastWords(console=OOM), Reason.NO_JOB),
        (Outcome.INTERRUPTED, LastWords(console=OOM, runner=FULL), Reason.INTERRUPTED),
    ],
)
def test_the_guests_words_name_the_cause(outcome: Outcome, said: LastWords, reason: Reason) -> None:
    assert why(record(outcome), said).reason is reason


@pytest.mark.parametrize(
    ("result", "reason"), [("Failed", Reason.OUT_OF_MEMORY), ("Succeeded", Reason.JOB_DONE), (None, Reason.JOB_DONE)]
)
def test_a_job_that_went_well_has_no_cause(result: str | None, reason: Reason) -> None:
    found = why(record(Outcome.JOB_DONE, job_result=result), LastWords(console=OOM))
    assert found.reason is reason


def test_the_last_lines_that_tell_are_the_evidence() -> None:
    console = "\n".join(["boring", *(f"{OOM} {number}" for number in range(9)), "boring"])
    found = why(record(Outcome.JOB_LOST), LastWords(console=console))
    assert found.evidence == tuple(f"{OOM} {number}" for number in (6, 7, 8))
    assert found.advice is not None
    assert '"ram" in the spec' in found.advice


def test_what_firmware_left_on_the_kernels_first_line_is_no_evidence() -> None:
    found = why(record(Outcome.JOB_LOST), LastWords(console=f"Booting from ROM..{OOM}"))
    assert found.evidence == (OOM,)


@pytest.mark.parametrize(
    ("kind", "code", "reason"),
    [
        ("ImageServerUnreachable", ExitCode.INFRASTRUCTURE, Reason.NETWORK),
        ("Unreachable", ExitCode.INFRASTRUCTURE, Reason.NETWORK),
        ("DiskFull", ExitCode.INFRASTRUCTURE, Reason.DISK_FULL),
        ("RunnerTooOld", ExitCode.PERMANENT, Reason.RUNNER_OUTDATED),
        ("NotUpError", ExitCode.NOT_UP, Reason.BOOT_FAILURE),
        ("PermanentError", ExitCode.PERMANENT, Reason.CONFIGURATION),
        ("UsageError", ExitCode.USAGE, Reason.CONFIGURATION),
        ("GhvmError", ExitCode.ERROR, Reason.NOT_STARTED),
    ],
)
def test_a_run_that_never_began(kind: str, code: int, reason: Reason) -> None:
    found = why(record(failure=failure(kind, code)), LastWords(console=OOM))
    assert found == Why(reason, "it broke", ("one", "two"), "mend it")


def test_the_classes_that_are_looked_for_exist() -> None:
    """They are found by name, which a rename would change."""
    from ghrunner_vm import errors
    from ghrunner_vm.github import faults, limits, transport
    from ghrunner_vm.images import errors as of_images
    from ghrunner_vm.lifecycle import reason

    known = {*vars(faults), *vars(limits), *vars(transport), *vars(errors), *vars(of_images)}
    assert {*reason._UNREACHABLE, *reason._NO_ROOM} <= known


def test_a_runner_that_was_walled_off() -> None:
    refused = RefusedRecord.of(packets=30, spoofed=0, destinations={"tcp 10.0.2.2:8321": 30})
    lost = record(Outcome.LISTENER_FAILED, refused=refused)
    found = why(lost, LastWords(runner="Runner connect error: no answer"))
    assert found == Why(
        Reason.NETWORK,
        f"{Outcome.LISTENER_FAILED.words}; its guest was refused tcp 10.0.2.2:8321",
        ("Runner connect error: no answer",),
        "If the runner needs that, allow it: --egress-allow 127.0.0.1:8321",
    )
    had_a_job = lost.model_copy(update={"job": "build"})
    assert why(had_a_job, LastWords()).reason is Reason.GUEST_FAILED


def test_a_vmm_that_somebody_killed_tells_of_the_hosts_memory() -> None:
    found = why(record(Outcome.VMM_CRASHED, cause="The virtual machine ended: … signal 9"), LastWords(vmm="qemu: bye"))
    assert found.reason is Reason.OUT_OF_MEMORY
    crashed = why(record(Outcome.VMM_CRASHED, cause="signal 11"), LastWords(vmm="qemu: bye"))
    assert (crashed.reason, crashed.evidence) == (Reason.MACHINE_FAILED, ("qemu: bye",))


def test_a_registration_that_the_network_kept_away() -> None:
    lost = record(Outcome.MINT_FAILED, failure=failure("Unreachable", ExitCode.INFRASTRUCTURE))
    assert (why(lost, LastWords()).reason, why(lost, LastWords()).advice) == (Reason.NETWORK, "mend it")
    refused = record(Outcome.MINT_REFUSED, failure=failure("PermanentError", ExitCode.PERMANENT))
    assert (why(refused, LastWords()).reason, why(refused, LastWords()).advice) == (Reason.REGISTRATION_LOST, "mend it")


@pytest.mark.parametrize(("rebooted", "words"), [(False, "ghvm itself was killed"), (True, "the host went down")])
def test_a_run_that_was_killed(rebooted: bool, words: str) -> None:
    found = why(record(phase="busy"), LastWords(console=OOM), rebooted=rebooted)
    assert (found.reason, found.words) == (Reason.KILLED, f"{words} while the run was busy")


def test_an_outcome_of_another_version_is_not_believed() -> None:
    odd = record().model_copy(update={"outcome": "abducted"})
    assert why(odd, LastWords()).reason is Reason.KILLED
