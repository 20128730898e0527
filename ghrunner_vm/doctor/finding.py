"""What a check found."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
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
    """One check: what was found, and what to do unless it is well. `exit_code` counts if it failed."""

    name: str
    status: Status
    found: str
    resolution: str | None = None
    details: str | None = None
    exit_code: ExitCode = ExitCode.PERMANENT


def ok(name: str, found: str) -> Finding:
    """All is well."""
    return Finding(name, Status.OK, found)


def warning(name: str, found: str, resolution: str) -> Finding:
    """It works, and a person should look at it."""
    return Finding(name, Status.WARNING, found, resolution)


def failed(name: str, found: str, resolution: str) -> Finding:
    """Runs will fail."""
    return Finding(name, Status.FAILED, found, resolution)


def unknown(name: str, found: str) -> Finding:
    """It was not checked."""
    return Finding(name, Status.UNKNOWN, found)


def of_error(name: str, error: GhvmError) -> Finding:
    """The check failed with this error."""
    return Finding(name, Status.FAILED, error.brief, error.resolution, error.details, error.exit_code)


def examine(name: str, check: Callable[[], Finding]) -> Finding:
    """What a check finds; an error in it is a finding as well, so that it hides no other check."""
    try:
        return check()
    except GhvmError as error:
        return of_error(name, error)
    except Exception as error:  # noqa: BLE001 one check's fault is not the others'
        return Finding(name, Status.UNKNOWN, f"it could not be checked: {error!r}")


def verdict(findings: Iterable[Finding]) -> ExitCode:
    """The exit code for all of them: what only a person can mend comes first."""
    codes = {finding.exit_code for finding in findings if finding.status is Status.FAILED}
    first = (ExitCode.PERMANENT, ExitCode.USAGE, *sorted(codes, reverse=True))
    return next((code for code in first if code in codes), ExitCode.OK)
