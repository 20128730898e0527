"""Kernel, modules and busybox out of the distribution's own packages."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ghrunner_vm.errors import GhvmError
from ghrunner_vm.simulator.tiny.apt import DEBIAN_NAMES, HOST, Apt

# On Debian, then on Ubuntu; the smaller kernels first.
_KERNELS: Mapping[str, tuple[str, ...]] = {
    "x86_64": ("linux-image-cloud-amd64", "linux-image-amd64", "linux-image-virtual", "linux-image-generic"),
    "aarch64": ("linux-image-cloud-arm64", "linux-image-arm64", "linux-image-virtual", "linux-image-generic"),
}
_REAL_KERNEL = re.compile(r"Depends: (linux-(?:image|modules)-\d\S+)")


@dataclass(frozen=True)
class Unpacked:
    """Where the parts lie once the packages are unpacked."""

    root: Path
    kernel: Path
    busybox: Path

    def module(self, name: str) -> bytes | None:
        """The file of a kernel module as it is; None if the kernel has it built in (or not at all)."""
        pattern = f"lib/modules/*/kernel/**/{name.replace('_', '[_-]')}.ko*"
        found = sorted(self.root.glob(pattern)) or sorted(self.root.glob(f"usr/{pattern}"))
        return found[0].read_bytes() if found else None


def kernel_packages(arch: str, apt: Apt = HOST) -> tuple[str, ...]:
    """The packages that hold the newest kernel of this distribution for virtual machines and its modules."""
    for meta in _KERNELS[arch]:
        found = tuple(_REAL_KERNEL.findall(apt.depends(meta)))
        if found:
            return tuple(dict.fromkeys((*found, *(m for p in found for m in _REAL_KERNEL.findall(apt.depends(p))))))
    raise GhvmError(
        f"This distribution's package lists name no {DEBIAN_NAMES[arch]} kernel for virtual machines",
        details=f"None of {', '.join(_KERNELS[arch])} is known to apt-cache.",
        resolution="Run `apt-get update` as root and try again. Debian and Ubuntu are supported; an image for another "
        "architecture needs package sources that have it, as Debian's do.",
    )


def unpack(apt: Apt, packages: tuple[str, ...], into: Path) -> Unpacked:
    """Download the packages and busybox and unpack them below `into`."""
    apt.unpack((*packages, "busybox-static"), into)
    return Unpacked(into, _only(into, "boot/vmlinuz-*"), _only(into, "bin/busybox", "usr/bin/busybox"))


def _only(root: Path, *patterns: str) -> Path:
    for pattern in patterns:
        for found in sorted(root.glob(pattern)):
            return found
    raise GhvmError(f"The distribution's packages hold no {patterns[0]}")
