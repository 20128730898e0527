"""The errors a person sees, and the exit codes a service manager reads."""

import errno
from enum import IntEnum


class ExitCode(IntEnum):
    """What `ghvm` exits with. The meaning of each is documented in docs/lifecycle.md."""

    OK = 0
    ERROR = 1
    USAGE = 2
    NOT_UP = 3
    """The virtual machine did not come up."""
    INFRASTRUCTURE = 4
    """Disk full, image server or GitHub unreachable: trying again later may help."""
    PERMANENT = 5
    """Stays until a person acts: configuration, permission, outdated runner."""
    JOB_TIMEOUT = 124
    INTERRUPTED = 130


class GhvmError(Exception):
    """An error in three parts: what happened (`brief`), the detail, and what to do (`resolution`)."""

    exit_code = ExitCode.ERROR

    def __init__(self, brief: str, *, details: str | None = None, resolution: str | None = None) -> None:
        super().__init__(brief)
        self.brief = brief
        self.details = details
        self.resolution = resolution


class UsageError(GhvmError):
    """The command line, the configuration or the spec cannot be used as written."""

    exit_code = ExitCode.USAGE


class NotUpError(GhvmError):
    """The virtual machine did not come up."""

    exit_code = ExitCode.NOT_UP


class InfrastructureError(GhvmError):
    """Something around the run failed; the same call may succeed later."""

    exit_code = ExitCode.INFRASTRUCTURE


class DiskFull(InfrastructureError):
    """There is no room on a disk of this host."""


class PermanentError(GhvmError):
    """Trying again cannot help until a person changes something."""

    exit_code = ExitCode.PERMANENT


def is_disk_full(error: OSError) -> bool:
    """Whether the operation failed for want of space, quota or inodes."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def told(error: Exception) -> GhvmError:
    """Any error in its three parts; what nobody foresaw is a fault of ours and says so."""
    if isinstance(error, GhvmError):
        return error
    if isinstance(error, OSError) and is_disk_full(error):
        return DiskFull(
            f"the disk is full ({error.filename or error.strerror})", resolution="Free some room and run it again."
        )
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        return GhvmError(
            f"{error.strerror or error}{where}", resolution="Run it again with `ghvm --debug …` for the place."
        )
    return GhvmError(
        f"unexpected {type(error).__name__}: {error}",
        resolution="This is a fault in ghvm. Run it again with `ghvm --debug …` and report what it prints.",
    )
