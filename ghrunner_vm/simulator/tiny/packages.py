"""Kernel, modules and busybox out of the distribution's own packages, without installing them."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from ghrunner_vm import process
from ghrunner_vm.errors import GhvmError

_KERNELS: Mapping[str, tuple[str, ...]] = {
    "x86_64": ("linux-image-cloud-amd64", "linux-image-amd64", "linux-image-virtual", "linux-image-generic"),
}
_REAL_KERNEL = re.compile(r"Depends: (linux-(?:image|modules)-\d\S+)")
_DOWNLOAD_SECONDS = 300.0


@dataclass(frozen=True)
class Unpacked:
    """Where the parts lie once the packages are unpacked."""

    root: Path
    kernel: Path
    busybox: Path

    def module(self, name: str) -> Path | None:
        """The file of a kernel module; None if the kernel has it built in (or not at all)."""
        pattern = f"lib/modules/*/kernel/**/{name.replace('_', '[_-]')}.ko*"
        return next(iter(sorted(self.root.glob(pattern)) or sorted(self.root.glob(f"usr/{pattern}"))), None)


def kernel_packages(arch: str) -> tuple[str, ...]:
    """The packages that hold the newest kernel of this distribution for virtual machines and its modules."""
    for meta in _KERNELS[arch]:
        found = tuple(_REAL_KERNEL.findall(_depends(meta)))
        if found:
            return tuple(dict.fromkeys((*found, *(m for p in found for m in _REAL_KERNEL.findall(_depends(p))))))
    raise GhvmError(
        "This distribution's package lists name no kernel for virtual machines",
        details=f"None of {', '.join(_KERNELS[arch])} is known to apt-cache.",
        resolution="Run `apt-get update` as root and try again. Debian and Ubuntu are supported.",
    )


def unpack(packages: tuple[str, ...], into: Path) -> Unpacked:
    """Download the packages and busybox and unpack them below `into`; nothing is installed and no root is needed."""
    with TemporaryDirectory(prefix="ghvm-packages-") as download:
        # As root apt would download as a user of its own, which cannot write to a directory that only we can.
        itself = ["-o", "APT::Sandbox::User=root"] if os.geteuid() == 0 else []
        wanted = [*packages, "busybox-static"]
        process.run(["apt-get", *itself, "download", *wanted], timeout=_DOWNLOAD_SECONDS, cwd=Path(download))
        for package in sorted(Path(download).glob("*.deb")):
            process.run(["dpkg-deb", "-x", str(package), str(into)], timeout=_DOWNLOAD_SECONDS)
    return Unpacked(into, _only(into, "boot/vmlinuz-*"), _only(into, "bin/busybox", "usr/bin/busybox"))


def _depends(package: str) -> str:
    try:
        return process.run(["apt-cache", "depends", package], timeout=60, env={"LC_ALL": "C"})
    except process.CommandFailed:
        return ""


def _only(root: Path, *patterns: str) -> Path:
    for pattern in patterns:
        for found in sorted(root.glob(pattern)):
            return found
    raise GhvmError(f"The distribution's packages hold no {patterns[0]}")
