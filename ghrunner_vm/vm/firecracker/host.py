"""Whether this host can run Firecracker at all."""

import os
import platform
from pathlib import Path

from ghrunner_vm.errors import PermanentError, UsageError
from ghrunner_vm.vm.base import Arch

_KVM = Path("/dev/kvm")
_INSTEAD = 'Or set "engine": "qemu" in the spec.'


def check(arch: Arch) -> None:
    """Raises UsageError and PermanentError."""
    if os.geteuid() != 0:
        raise UsageError(
            "Only root can run Firecracker in its jailer", resolution=f"Run ghvm as root (sudo). {_INSTEAD}"
        )
    if arch != platform.machine():
        raise UsageError(
            f"Firecracker runs guests of its host's architecture, {platform.machine()}, not {arch}",
            resolution=f'Change "arch" in the spec. {_INSTEAD}',
        )
    try:
        os.close(os.open(_KVM, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        raise PermanentError(
            "Firecracker needs KVM, which this host does not have",
            details=f"{_KVM}: {error.strerror}",
            resolution=f"Load kvm_intel or kvm_amd, or switch on (nested) virtualization. {_INSTEAD}",
        ) from error
