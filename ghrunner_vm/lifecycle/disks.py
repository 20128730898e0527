"""What a machine boots from and writes to, by its engine: joins an image with a layer that is thrown away."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ghrunner_vm import runs
from ghrunner_vm.errors import PermanentError
from ghrunner_vm.images.build import scratch
from ghrunner_vm.images.manifest import Role
from ghrunner_vm.images.store import LeasedImage
from ghrunner_vm.spec import Spec
from ghrunner_vm.vm.base import DirectBoot
from ghrunner_vm.vm.firecracker.configuration import boot_arguments
from ghrunner_vm.vm.overlay import overlay


@dataclass(frozen=True)
class Layers:
    """Open files: what all machines of an image share, and what this one writes to, unless that is its memory."""

    base: int
    top: int | None
    boot: DirectBoot | None


@contextlib.contextmanager
def layers(run: Path, image: LeasedImage, spec: Spec) -> Iterator[Layers]:
    """Those of a machine; what was made of them in the directory `run` is deleted at the end. May block for seconds.

    Raises UsageError, and PermanentError for an image that its engine cannot boot.
    """
    if spec.engine == "firecracker":
        with _scratch(run, spec) as top:
            yield Layers(_file(image, "base"), top, _firecracker_boot(image, spec))
    else:
        with overlay(run, image.disk_fd, spec.root_disk) as top:
            yield Layers(image.disk_fd, top, _qemu_boot(image))


@contextlib.contextmanager
def _scratch(run: Path, spec: Spec) -> Iterator[int | None]:
    if spec.root_disk_in == "ram":
        yield None
        return
    path = run / runs.DISK
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        scratch.format_empty(descriptor, spec.root_disk)
        yield descriptor
    finally:
        os.close(descriptor)
        path.unlink(missing_ok=True)


def _firecracker_boot(image: LeasedImage, spec: Spec) -> DirectBoot:
    initrd = image.manifest.boot.initrd
    in_ram = spec.root_disk if spec.root_disk_in == "ram" else None
    cmdline = boot_arguments(spec.arch, in_ram)
    return DirectBoot(_file(image, "vmlinux"), None if initrd is None else image.files[initrd], cmdline)


def _file(image: LeasedImage, role: Role) -> int:
    name = image.manifest.only(role)
    if name is None:
        raise PermanentError(
            f"The image {image.name} cannot be booted by Firecracker",
            details=f"It has no artifact with the role {role}.",
            resolution="Build it anew: ghvm images build --engine firecracker, or both.",
        )
    return image.files[name]


def _qemu_boot(image: LeasedImage) -> DirectBoot | None:
    boot = image.manifest.boot
    if boot.kernel is None:
        return None
    initrd = None if boot.initrd is None else image.files[boot.initrd]
    return DirectBoot(image.files[boot.kernel], initrd, boot.cmdline or "")
