"""The most that a run's machine has used: looked at now and then, and whenever the run goes on to another phase."""

import asyncio
from pathlib import Path

from ghrunner_vm.record import Peaks
from ghrunner_vm.usage import usage

_SECONDS = 5.0


class Gauge:
    """Reads the VMM `pid` and the file of its disk."""

    def __init__(self, pid: int, disk: Path) -> None:
        self._pid = pid
        self._disk = disk
        self.peaks = Peaks()

    def look(self) -> Peaks:
        """The peaks so far, this moment included."""
        now = usage(self._pid, self._disk)
        if now is not None:
            self.peaks = Peaks.of(
                cpu_seconds=max(self.peaks.cpu_seconds, now.cpu_seconds),
                memory=max(self.peaks.memory, now.memory_peak),
                disk=max(self.peaks.disk, now.disk),
            )
        return self.peaks

    async def watch(self) -> None:
        """Look every five seconds."""
        while True:
            await asyncio.sleep(_SECONDS)
            self.look()
