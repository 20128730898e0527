"""A place on this host for one more machine: asked for in turn, so that two that start at once both count."""

import os
from pathlib import Path

from ghrunner_vm.files import lock
from ghrunner_vm.ledger import Entry, Ledger
from ghrunner_vm.record import MachineRecord
from ghrunner_vm.runs import DISK, RunDirectory
from ghrunner_vm.vm.admission import Claim, Room, Rules, refusal
from ghrunner_vm.vm.base import Accelerator

_TURN = "admission.lock"
_MEMORY = Path("/proc/meminfo")
_BLOCK = 512
"""What st_blocks counts in (stat(2))."""


def admit(run: RunDirectory, machine: MachineRecord, ledger: Ledger, rules: Rules) -> None:
    """Write the machine down as the run's, which is its place until the run is over, however it ends.

    Raises InfrastructureError, with the numbers, if the host is full.
    """
    with lock(ledger.runs.parent / _TURN):
        others = [claim for entry in ledger.live() if entry.id != run.record.id and (claim := _claim(entry))]
        if full := refusal(_of(machine), others, _room(ledger.runs), rules):
            raise full
        run.update(machine=machine)


def _claim(entry: Entry) -> Claim | None:
    machine = entry.record.machine
    return None if machine is None else _of(machine, _used(entry.path / DISK))


def _of(machine: MachineRecord, disk_used: int = 0) -> Claim:
    accelerator: Accelerator = "tcg" if machine.accelerator == "tcg" else "kvm"
    return Claim(machine.ram, accelerator, machine.root_disk, disk_used)


def _used(disk: Path) -> int:
    try:
        return disk.stat().st_blocks * _BLOCK
    except OSError:
        return 0  # not made yet, or gone by now


def _room(directory: Path) -> Room:
    told = dict(line.split(":", 1) for line in _MEMORY.read_text(encoding="ascii").splitlines())
    total, available = (int(told[key].split()[0]) << 10 for key in ("MemTotal", "MemAvailable"))
    found = os.statvfs(directory)
    return Room(total, available, found.f_bavail * found.f_frsize)
