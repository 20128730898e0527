"""What the ends of Firecracker and its jailer mean."""

import re
from collections.abc import Mapping

from ghrunner_vm.errors import GhvmError, InfrastructureError, NotUpError, PermanentError
from ghrunner_vm.vm.cell.main import COMPLAINT
from ghrunner_vm.vm.complaints import Complaint, no_memory, understood

_KNOWN = (
    Complaint(
        re.compile(f"^{re.escape(COMPLAINT)}(.*)", re.MULTILINE),
        PermanentError,
        "A jail for Firecracker cannot be made on this host",
        "Run ghvm as root with CAP_SYS_ADMIN, on Linux 5.12 or newer.",
    ),
    no_memory(r"Cannot allocate memory|OutOfMemory|os error 12"),
    Complaint(
        re.compile(r"/dev/kvm|Error creating KVM object|KVM"),
        PermanentError,
        "Firecracker cannot use KVM",
        "Its host must be a machine with virtualization, or a virtual one with nested virtualization.",
    ),
    Complaint(
        re.compile(r"Cannot load kernel|KernelLoader|Invalid Elf|kernel", re.IGNORECASE),
        PermanentError,
        "Firecracker cannot load the image's kernel",
        "Build the image anew with --engine firecracker.",
    ),
    Complaint(
        re.compile(r"tap|TUNSETIFF|net::", re.IGNORECASE),
        InfrastructureError,
        "Firecracker cannot use the guest's network card",
        "Look whether /dev/net/tun is there (modprobe tun).",
    ),
)

_CODES: Mapping[int, str] = {
    1: "an error of its own",
    148: "a system call that its filter does not allow",
    149: "SIGBUS, as when a file that it has mapped became shorter",
    150: "SIGSEGV",
    151: "its largest file was reached (SIGXFSZ)",
    152: "a configuration that it refuses",
    153: "a command line that it refuses",
    154: "SIGXCPU",
    155: "SIGPIPE",
    156: "SIGHUP",
    157: "SIGILL",
}
"""FcExitCode in Firecracker's sources."""
_BY_SIGNAL = 128
"""What a shell adds to the number of the signal that ended a program."""
_LAST_SIGNAL = 19


def ended_by(code: int) -> str:
    """An exit code of the jail's first process in words."""
    if code < 0:
        return f"signal {-code}"
    if _BY_SIGNAL < code <= _BY_SIGNAL + _LAST_SIGNAL:
        return f"signal {code - _BY_SIGNAL}"
    return f"exit code {code}" + (f": {_CODES[code]}" if code in _CODES else "")


def not_started(words: str, code: int | None) -> GhvmError:
    """The error for a Firecracker that ended before its guest's first instruction."""
    silent = "It said nothing" if code is None else f"No message; {ended_by(code)}"
    return understood(words, _KNOWN) or NotUpError(
        "Firecracker did not start the virtual machine",
        details=words or f"{silent}.",
        resolution="`ghvm --debug run …` shows the command line of its jailer.",
    )
