"""What was found by looking at this host, at GitHub, or at what GitHub made."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from ghrunner_vm.errors import ExitCode, GhvmError


class Status(Enum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    UNKNOWN = "unknown"
    """It could not be checked, since something else is missing."""


@dataclass(frozen=True)
class Finding:
    """One thing that was found, and what to do unless it is well. `exit_code` counts if it failed."""

    name: str
    status: Status
    found: str
    resolution: str | None = None
    details: str | None = None
    """Further lines for a person."""
    exit_code: ExitCode = ExitCode.PERMANENT
    facts: Mapping[str, object] = field(default_factory=dict)
    """The same for a machine, by kebab-case keys."""


def ok(name: str, found: str, facts: Mapping[str, object] | None = None) -> Finding:
    """All is well."""
    return Finding(name, Status.OK, found, facts=facts or {})


def warning(name: str, found: str, resolution: str, facts: Mapping[str, object] | None = None) -> Finding:
    """It works, and a person should look at it."""
    return Finding(name, Status.WARNING, found, resolution, facts=facts or {})


def failed(name: str, found: str, resolution: str, facts: Mapping[str, object] | None = None) -> Finding:
    """Runs will fail."""
    return Finding(name, Status.FAILED, found, resolution, facts=facts or {})


def unknown(name: str, found: str) -> Finding:
    """It was not checked."""
    return Finding(name, Status.UNKNOWN, found)


def of_error(name: str, error: Exception) -> Finding:
    """The check failed with this error; with one that nobody foresaw it was not made."""
    if isinstance(error, GhvmError):
        return Finding(name, Status.FAILED, error.brief, error.resolution, error.details, error.exit_code)
    return unknown(name, f"it could not be checked: {error!r}")


def examine(name: str, check: Callable[[], Finding]) -> Finding:
    """What a check finds; an error in it is a finding as well, so that it hides no other check."""
    try:
        return check()
    except Exception as error:  # noqa: BLE001 one check's fault is not the others'
        return of_error(name, error)


def verdict(findings: Iterable[Finding]) -> ExitCode:
    """The exit code for all of them: what only a person can mend comes first."""
    codes = {finding.exit_code for finding in findings if finding.status is Status.FAILED}
    first = (ExitCode.PERMANENT, ExitCode.USAGE, *sorted(codes, reverse=True))
    return next((code for code in first if code in codes), ExitCode.OK)
