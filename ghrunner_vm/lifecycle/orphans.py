"""Virtual machines whose supervisor is gone. What proves that is in the kernel, nothing that a file says.

A VMM dies with the `ghvm run` that started it. This is for one whose supervisor was killed before it was told to.
"""

import contextlib
import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path

_VMMS = ("qemu-system", "unshare", "sh")
"""Firecracker holds nothing of a run's, but it ends with the two that hold it: see vm/cell/nest.py."""
_INIT = 1
_SERVICE_MANAGERS = ("systemd", "(systemd)")
"""A user's manager is given the orphans of that user."""
_KILL_SECONDS = 10.0


def end_orphans(lock: Path) -> None:
    """SIGKILL each VMM that holds the lock file of a run while the process that started it is gone."""
    for pid in _vmms():
        with contextlib.suppress(OSError):  # it has ended, or we may not look at it: not of this run then
            _end_orphan(pid, lock)


def _end_orphan(pid: int, lock: Path) -> None:
    pidfd = os.pidfd_open(pid)
    try:
        # The descriptor pins the process: a signal through it never hits another one that was given the same id.
        if _holds(pid, lock) and not _supervises(_status(pid, "PPid"), lock):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            select.select([pidfd], [], [], _KILL_SECONDS)
    finally:
        os.close(pidfd)


def _supervises(pid: int, lock: Path) -> bool:
    """Whether a VMM's parent is its supervisor; otherwise it is init or the like, to which the kernel gave an orphan.

    Raises PermissionError if that cannot be known.
    """
    if _status(pid, "Uid") != os.geteuid():
        return False
    try:
        return _holds(pid, lock)
    except PermissionError:
        # They hide what they have; ghvm would not, since nothing raises its privileges.
        if pid == _INIT or _name(pid) in _SERVICE_MANAGERS:
            return False
        raise


def _vmms() -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                if _name(int(entry.name)).startswith(_VMMS):
                    yield int(entry.name)


def _name(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()


def _status(pid: int, field: str) -> int:
    """The first number of a field in /proc/PID/status (proc_pid_status(5))."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def _holds(pid: int, lock: Path) -> bool:
    """Whether a process has the file open. Raises PermissionError if we may not know."""
    wanted = lock.lstat()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(descriptor.stat(), wanted):
                return True
    return False
