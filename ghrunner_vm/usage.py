"""What a process and its files take of the host, as the kernel tells it."""

import os
from dataclasses import dataclass
from pathlib import Path

_TICK = 1 / os.sysconf("SC_CLK_TCK")
_BLOCK = 512  # of st_blocks, see stat(2)


@dataclass(frozen=True)
class Usage:
    """Processor time in seconds since the start of the process; sizes in bytes."""

    cpu_seconds: float
    memory: int
    memory_peak: int
    disk: int


def usage(pid: int, disk: Path) -> Usage | None:
    """What the process takes, and the room that the file `disk` takes; None once the process has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    sizes = {line.partition(":")[0]: line.split()[1] for line in status.splitlines() if line.startswith("Vm")}
    if "VmRSS" not in sizes:
        return None  # a zombie has no memory any more
    fields = stat.rpartition(")")[2].split()
    cpu = (int(fields[11]) + int(fields[12])) * _TICK  # utime and stime, proc_pid_stat(5)
    return Usage(cpu, int(sizes["VmRSS"]) << 10, int(sizes["VmHWM"]) << 10, _room(disk))


def _room(path: Path) -> int:
    try:
        return path.lstat().st_blocks * _BLOCK
    except FileNotFoundError:
        return 0
