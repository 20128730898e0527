"""What QEMU's last words mean when it does not start."""

import re

from ghrunner_vm.errors import GhvmError, InfrastructureError, NotUpError, PermanentError
from ghrunner_vm.vm.cell.main import COMPLAINT
from ghrunner_vm.vm.complaints import Complaint, no_memory, understood

_KNOWN = (
    Complaint(
        re.compile(r"Could not set up host forwarding rule '[^']*:(\d+)-"),
        InfrastructureError,
        "Port {0} of this host's loopback is taken",
        "Give another --ssh-port; two runs cannot share one.",
    ),
    no_memory(r"cannot set up guest memory|Cannot allocate memory"),
    Complaint(
        re.compile(r"Could not access KVM kernel module: (.*)|failed to initialize kvm: (.*)"),
        PermanentError,
        "QEMU may not use KVM",
        "Let the user that runs ghvm use /dev/kvm: sudo adduser USER kvm.",
    ),
)
_UNCONFINED = re.compile(f"^{re.escape(COMPLAINT)}(.*)", re.MULTILINE)


def unconfined(words: str) -> PermanentError | None:
    """The error that the cell around QEMU ended with; None if it did not."""
    match = _UNCONFINED.search(words)
    if match is None:
        return None
    return PermanentError(
        "QEMU cannot be walled in on this host, so no guest is started",
        details=match[1],
        resolution="Run ghvm as root with CAP_SYS_ADMIN, or allow user namespaces (sysctl user.max_user_namespaces, "
        "kernel.unprivileged_userns_clone), or use a kernel with Landlock (5.13 and newer; `lsm=` on its command "
        "line must name it).",
    )


def not_started(words: str, code: int | None) -> GhvmError:
    """The error for a QEMU that ended before its guest's first instruction, from its log and its exit code."""
    return (
        unconfined(words)
        or understood(words, _KNOWN)
        or NotUpError(
            "QEMU did not start the virtual machine",
            details=words or f"No message; exit code {code}.",
            resolution="`ghvm --debug run …` shows QEMU's command line.",
        )
    )
