"""Why a run ended, told from its record and from what its guest and its VMM said last. Pure.

A guest's words are its own claims: they name a cause more closely, and never turn a bad end into a good one.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from ghrunner_vm.errors import ExitCode
from ghrunner_vm.lifecycle.outcome import Outcome
from ghrunner_vm.record import RunRecord


class Reason(Enum):
    """A class of ends, for lists and for scripts."""

    JOB_DONE = "job done"
    NO_JOB = "no job"
    TIMEOUT = "timeout"
    BOOT_FAILURE = "boot failure"
    KERNEL_PANIC = "kernel panic"
    OUT_OF_MEMORY = "out of memory"
    DISK_FULL = "disk full"
    NETWORK = "network"
    RUNNER_OUTDATED = "runner outdated"
    REGISTRATION_LOST = "registration lost"
    INTERRUPTED = "interrupted"
    GUEST_FAILED = "guest failed"
    MACHINE_FAILED = "machine failed"
    CONFIGURATION = "configuration"
    NOT_STARTED = "not started"
    KILLED = "killed"


@dataclass(frozen=True)
class LastWords:
    """The ends of what was written down: by the guest, and by the VMM."""

    console: str = ""
    runner: str = ""
    vmm: str = ""


@dataclass(frozen=True)
class Why:
    """Why a run ended. `evidence` are lines of the guest or the VMM that tell so; `advice` says what to do."""

    reason: Reason
    words: str
    evidence: tuple[str, ...] = ()
    advice: str | None = None


_OF_OUTCOME: Mapping[Outcome, Reason] = {
    Outcome.JOB_DONE: Reason.JOB_DONE,
    Outcome.DRAINED: Reason.NO_JOB,
    Outcome.DRAINED_UNCONFIRMED: Reason.NO_JOB,
    Outcome.IDLE_TIMEOUT: Reason.NO_JOB,
    Outcome.NO_JOB: Reason.REGISTRATION_LOST,
    Outcome.VANISHED: Reason.REGISTRATION_LOST,
    Outcome.JOB_TIMEOUT: Reason.TIMEOUT,
    Outcome.INTERRUPTED: Reason.INTERRUPTED,
    Outcome.BOOT_TIMEOUT: Reason.BOOT_FAILURE,
    Outcome.BOOT_FAILED: Reason.BOOT_FAILURE,
    Outcome.START_TIMEOUT: Reason.BOOT_FAILURE,
    Outcome.REFUSED: Reason.BOOT_FAILURE,
    Outcome.OUTDATED: Reason.RUNNER_OUTDATED,
    Outcome.MINT_REFUSED: Reason.REGISTRATION_LOST,
    Outcome.MINT_FAILED: Reason.REGISTRATION_LOST,
    Outcome.DISK_FULL: Reason.DISK_FULL,
    Outcome.VMM_CRASHED: Reason.MACHINE_FAILED,
    Outcome.VMM_SILENT: Reason.MACHINE_FAILED,
    Outcome.PANICKED: Reason.KERNEL_PANIC,
    Outcome.LISTENER_FAILED: Reason.GUEST_FAILED,
    Outcome.JOB_LOST: Reason.GUEST_FAILED,
    Outcome.JOB_UNCONFIRMED: Reason.NETWORK,
    Outcome.GUEST_LEFT: Reason.GUEST_FAILED,
}
_BY_LABEL = {outcome.label: outcome for outcome in Outcome}
_UNREACHABLE = ("Unreachable", "ImageServerUnreachable", "LostResponse", "RateLimited")
_NO_ROOM = ("DiskFull",)
_OUTDATED = ("RunnerTooOld",)

# What Linux, libc and the runner print; the last is what .NET makes of a name that cannot be resolved.
_MEMORY = re.compile(r"Out of memory: Killed process|oom-kill:|invoked oom-killer|deadlocked on memory", re.IGNORECASE)
_ROOM = re.compile(r"No space left on device")
_NETWORK = re.compile(
    r"Could not resolve host|Temporary failure in name resolution|Network is unreachable|Connection timed out"
    r"|Name or service not known|No route to host"
)
_PANIC = re.compile(r"Kernel panic - not syncing.*")
_STAMPED = re.compile(r"\[ *\d+\.\d+\] ")  # how Linux begins a line
_KILLED = re.compile(r"\bsignal 9\b")
_MAY_HAVE_CAUSE = frozenset(
    (
        *(Outcome.JOB_DONE, Outcome.JOB_LOST, Outcome.JOB_TIMEOUT, Outcome.GUEST_LEFT, Outcome.LISTENER_FAILED),
        *(Outcome.PANICKED, Outcome.BOOT_FAILED, Outcome.BOOT_TIMEOUT, Outcome.START_TIMEOUT),
    )
)
_SUCCEEDED = "Succeeded"
_GATEWAY = "10.0.2.2:"

_MORE_RAM = 'Give the machine more memory ("ram" in the spec), or let the job use less.'
_MORE_DISK = 'Give the machine a larger disk ("root-disk" in the spec), or let the job write less.'
_CHECK_NETWORK = "Check the host's network and name servers, and what stands between it and the rest of the world."


def why(record: RunRecord, said: LastWords, *, rebooted: bool = False) -> Why:
    """Why a run that is over ended; `rebooted`: the host has been started anew since."""
    outcome = _BY_LABEL.get(record.outcome or "")
    if outcome is None:
        return _not_run(record) if record.failure is not None else _killed(record, rebooted=rebooted)
    named = _walled_off(record, outcome, said) or _named_by_guest(record, outcome, said)
    named = named or _named_by_host(record, outcome)
    return named or Why(
        _OF_OUTCOME[outcome], _words(record, outcome), _evidence(outcome, said), _advice(record, outcome)
    )


def _walled_off(record: RunRecord, outcome: Outcome, said: LastWords) -> Why | None:
    """A runner that failed before it had a job, and whose guest was refused something: that may be all it lacked."""
    if outcome is not Outcome.LISTENER_FAILED or record.job or not (record.refused and record.refused.destinations):
        return None
    destination = next(iter(record.refused.destinations))
    words = f"{_words(record, outcome)}; its guest was refused {destination}"
    advice = f"If the runner needs that, allow it: --egress-allow {_as_entry(destination)}"
    return Why(Reason.NETWORK, words, _evidence(outcome, said), advice)


def _as_entry(destination: str) -> str:
    """`tcp 10.0.2.2:80` as a person writes it: at the gateway's address the guest finds the host's loopback."""
    return destination.split()[-1].replace(_GATEWAY, "127.0.0.1:")


def _named_by_guest(record: RunRecord, outcome: Outcome, said: LastWords) -> Why | None:
    """A closer cause that the guest's own lines tell of."""
    if outcome not in _MAY_HAVE_CAUSE or (outcome is Outcome.JOB_DONE and record.job_result in (None, _SUCCEEDED)):
        return None
    words = _words(record, outcome)
    if lines := _matching(_MEMORY, said.console):
        return Why(Reason.OUT_OF_MEMORY, f"{words}; the guest ran out of memory", lines, _MORE_RAM)
    if lines := _matching(_ROOM, said.console, said.runner):
        return Why(Reason.DISK_FULL, f"{words}; the guest's disk was full", lines, _MORE_DISK)
    if lines := _matching(_NETWORK, said.runner):
        return Why(Reason.NETWORK, f"{words}; the guest could not reach the network", lines, _CHECK_NETWORK)
    return None


def _named_by_host(record: RunRecord, outcome: Outcome) -> Why | None:
    if outcome is Outcome.VMM_CRASHED and _KILLED.search(record.cause or ""):
        words = f"{outcome.words}: something on the host killed it, most likely the kernel for want of memory"
        advice = "See `journalctl -k` or `dmesg`, and start fewer or smaller machines on this host."
        return Why(Reason.OUT_OF_MEMORY, words, (), advice)
    if outcome is Outcome.MINT_FAILED and record.failure is not None and record.failure.kind in _UNREACHABLE:
        return Why(Reason.NETWORK, f"{outcome.words}: {record.failure.brief}", (), record.failure.resolution)
    return None


def _not_run(record: RunRecord) -> Why:
    failure = record.failure
    assert failure is not None  # noqa: S101 asked by `why`
    if failure.kind in _UNREACHABLE:
        reason = Reason.NETWORK
    elif failure.kind in _NO_ROOM:
        reason = Reason.DISK_FULL
    elif failure.kind in _OUTDATED:
        reason = Reason.RUNNER_OUTDATED
    elif failure.exit_code == ExitCode.NOT_UP:
        reason = Reason.BOOT_FAILURE
    elif failure.exit_code in (ExitCode.USAGE, ExitCode.PERMANENT):
        reason = Reason.CONFIGURATION
    else:
        reason = Reason.NOT_STARTED
    evidence = tuple((failure.details or "").splitlines())
    return Why(reason, failure.brief, evidence, failure.resolution)


def _killed(record: RunRecord, *, rebooted: bool) -> Why:
    by = "the host went down" if rebooted else "ghvm itself was killed"
    advice = (
        "`ghvm gc` clears up after it. If it was in the middle of a job, GitHub fails that within about 15 minutes."
    )
    return Why(Reason.KILLED, f"{by} while the run was {record.phase}", (), advice)


def _words(record: RunRecord, outcome: Outcome) -> str:
    result = f" ({record.job_result})" if record.job_result else ""
    return f"{outcome.words}{result}"


def _evidence(outcome: Outcome, said: LastWords) -> tuple[str, ...]:
    if outcome in (Outcome.PANICKED, Outcome.BOOT_FAILED):
        return _matching(_PANIC, said.console)
    if outcome is Outcome.LISTENER_FAILED:
        return tuple(said.runner.splitlines()[-5:])
    if outcome in (Outcome.VMM_CRASHED, Outcome.VMM_SILENT):
        return tuple(said.vmm.splitlines()[-5:])
    return ()


def _advice(record: RunRecord, outcome: Outcome) -> str | None:
    if record.failure is not None and record.failure.resolution:
        return record.failure.resolution
    return outcome.advice


def _matching(pattern: re.Pattern[str], *texts: str) -> tuple[str, ...]:
    """The last three lines that match."""
    lines = [_said(line) for text in texts for line in text.splitlines() if pattern.search(line)]
    return tuple(lines[-3:])


def _said(line: str) -> str:
    """The kernel's own words: firmware may have left the line open that a quiet kernel's first one is on."""
    stamped = _STAMPED.search(line)
    return line[stamped.start() if stamped else 0 :].strip()
