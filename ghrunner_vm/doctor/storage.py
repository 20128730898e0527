"""Whether the disks have room for what runs write."""

import os
from pathlib import Path

from ghrunner_vm import runs
from ghrunner_vm.finding import Finding, failed, ok, warning
from ghrunner_vm.spec import Spec
from ghrunner_vm.units import format_size

_LEAST = 5 << 30
_LEAST_FILES = 10_000


def room(name: str, directory: Path, wanted: int) -> Finding:
    """Free bytes and inodes where `directory` is or will be."""
    there = next(path for path in (directory, *directory.parents) if path.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        return failed(
            name, f"{there} may not be written", "Run it as the user who runs ghvm, or choose another directory."
        )
    found = os.statvfs(there)
    free = found.f_bavail * found.f_frsize
    told = f"{format_size(free)} are free for {directory}"
    if found.f_files and found.f_favail < _LEAST_FILES:
        return warning(name, f"{found.f_favail} inodes are free for {directory}", "Remove files there.")
    if free < wanted:
        return warning(name, f"{told}, {format_size(wanted)} may be needed", "Make room, or choose a larger disk.")
    return ok(name, told)


def state(directory: Path, spec: Spec | None) -> Finding:
    """Where runs and their disks are: trusted, and large enough for what one machine may write."""
    if (directory / "runs").exists():
        with runs.home(directory / "runs"):
            pass  # it can be trusted
    return room("disk for runs", directory, _LEAST if spec is None else spec.root_disk)
