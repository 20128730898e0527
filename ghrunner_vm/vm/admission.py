"""Whether this host has room for one more machine. It goes by what the others were promised, not by what they use."""

from collections.abc import Sequence
from dataclasses import dataclass

from ghrunner_vm.errors import InfrastructureError
from ghrunner_vm.units import format_size
from ghrunner_vm.vm.base import Accelerator
from ghrunner_vm.vm.limits import overhead


@dataclass(frozen=True)
class Claim:
    """What a machine was promised, in bytes."""

    ram: int
    accelerator: Accelerator
    root_disk: int
    disk_used: int = 0
    """Of its root disk, what is written and so counts as used on the host already."""

    @property
    def memory(self) -> int:
        """With what the VMM takes."""
        return self.ram + overhead(self.ram, self.accelerator)

    @property
    def disk(self) -> int:
        """What it may still write."""
        return max(0, self.root_disk - self.disk_used)


@dataclass(frozen=True)
class Room:
    """What this host has, in bytes."""

    memory: int
    """MemTotal of /proc/meminfo."""
    memory_available: int
    """MemAvailable of it."""
    disk_free: int
    """On the file system of the root disks."""


@dataclass(frozen=True)
class Rules:
    """How much of a host machines may be promised together."""

    reserve: int
    """Bytes of memory for all else on the host."""
    memory_ratio: float = 1.0
    """Promises of memory to what there is; above 1 is overcommitment, which guests that use what they have end."""
    disk_ratio: float = 1.0
    disk_reserve: int = 0
    """Bytes that stay free."""


def refusal(wanted: Claim, others: Sequence[Claim], room: Room, rules: Rules) -> InfrastructureError | None:
    """Why a machine must not be started beside the others; None if it may."""
    return _memory(wanted, others, room, rules) or _disk(wanted, others, room, rules)


def _memory(wanted: Claim, others: Sequence[Claim], room: Room, rules: Rules) -> InfrastructureError | None:
    need, there = f"This machine needs {format_size(wanted.memory)}", format_size(room.memory)
    kept = f"{format_size(rules.reserve)} are kept for the host{_by(rules.memory_ratio)}"
    held = sum(other.memory for other in others)
    if held + wanted.memory > (room.memory - rules.reserve) * rules.memory_ratio:
        taken = _hold(others, held, there) or f"this host has {there}"
        return InfrastructureError(
            "This host has not enough memory for one more machine",
            details=f"{need}, {taken}, and {kept}.",
            resolution=f"{_advice(others, 'ram')} Or raise memory-overcommit, if guests do not use what they have.",
        )
    if wanted.memory > (room.memory_available - rules.reserve) * rules.memory_ratio:
        return InfrastructureError(
            "Too much of this host's memory is in use for one more machine",
            details=f"{need}, {format_size(room.memory_available)} of {there} are available, and {kept}.",
            resolution='End what uses it, or lower "ram" in the spec.',
        )
    return None


def _disk(wanted: Claim, others: Sequence[Claim], room: Room, rules: Rules) -> InfrastructureError | None:
    need, there = f"This machine may write {format_size(wanted.disk)}", f"{format_size(room.disk_free)} that are free"
    held = sum(other.disk for other in others)
    if not wanted.disk or held + wanted.disk <= (room.disk_free - rules.disk_reserve) * rules.disk_ratio:
        return None
    kept = f"{format_size(rules.disk_reserve)} stay free{_by(rules.disk_ratio)}"
    return InfrastructureError(
        "This host's disk has not enough room for one more machine",
        details=f"{need}, {_hold(others, held, f'the {there}') or f'there are {there}'}, and {kept}.",
        resolution=f"Free some room (`ghvm images prune`). {_advice(others, 'root-disk')} Or raise disk-overcommit: a "
        "disk takes only what its guest writes.",
    )


def _hold(others: Sequence[Claim], held: int, there: str) -> str:
    if not others:
        return ""
    return f"{len(others)} other{'s hold' if len(others) > 1 else ' holds'} {format_size(held)} of {there}"


def _by(ratio: float) -> str:
    return "" if ratio == 1 else f" (promised {ratio:g} times)"


def _advice(others: Sequence[Claim], key: str) -> str:
    return f'Run fewer machines at once, or lower "{key}" in the spec.' if others else f'Lower "{key}" in the spec.'
