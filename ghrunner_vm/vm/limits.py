"""How much of this host one machine may take."""

from collections.abc import Mapping
from dataclasses import dataclass

from ghrunner_vm.vm.base import Accelerator, VmDescription

_MIB, _GIB = 1 << 20, 1 << 30
_OVERHEAD = 128 * _MIB
_OVERHEAD_PER_GIB = 8 * _MIB
TRANSLATED = 256 * _MIB
"""Bytes of translated code that QEMU keeps when it emulates (tb-size in its command line)."""

_DESCRIPTORS = 4096
# Two pools of up to 64 threads for files, those of QEMU's own, and some room.
_THREADS = 160
# qcow2 needs an 8192th of the disk for its tables and less for its counts; the rest is room for clusters that wait to
# be used again, and for firmware variables.
_FILE_ROOM = _GIB


@dataclass(frozen=True)
class Limits:
    """Of one VMM."""

    memory: int
    """Bytes, its guest's included."""
    threads: int
    file: int
    """Bytes: the largest file that it may write."""

    def of_process(self, *, own_uid: bool) -> Mapping[str, int]:
        """For getrlimit(2). The number of threads counts all of a user, so it is for a user id of the VMM's own.

        There is none for address space: QEMU reserves much more than it uses (stacks, arenas, buffers of translated
        code, guests' memory that is never touched), by its version and the C library's. Memory is the cgroup's matter.
        """
        # A core would hold the guest's memory, secrets included.
        always = {"CORE": 0, "NOFILE": _DESCRIPTORS, "FSIZE": self.file}
        return {**always, "NPROC": self.threads} if own_uid else always


def overhead(ram: int, accelerator: Accelerator) -> int:
    """Bytes that a VMM takes besides its guest's memory, at most."""
    return _OVERHEAD + -(-ram // _GIB) * _OVERHEAD_PER_GIB + (TRANSLATED if accelerator == "tcg" else 0)


def limits(vm: VmDescription, disk: int) -> Limits:
    """Those of a machine with a root disk of `disk` bytes. No lawful guest reaches them."""
    return Limits(vm.ram + overhead(vm.ram, vm.accelerator), vm.cores + _THREADS, disk + disk // 8 + _FILE_ROOM)
