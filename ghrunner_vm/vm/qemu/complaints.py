"""What QEMU's last words mean when it does not start."""

import re

from ghrunner_vm.errors import GhvmError, InfrastructureError, NotUpError, PermanentError

_KNOWN: tuple[tuple[re.Pattern[str], type[GhvmError], str, str], ...] = (
    (
        re.compile(r"Could not set up host forwarding rule '[^']*:(\d+)-"),
        InfrastructureError,
        "Port {0} of this host's loopback is taken",
        "Give another --ssh-port; two runs cannot share one.",
    ),
    (
        re.compile(r"cannot set up guest memory|Cannot allocate memory"),
        InfrastructureError,
        "This host has not enough memory for the virtual machine",
        'Lower "ram" in the spec, or run fewer machines at once.',
    ),
    (
        re.compile(r"Could not access KVM kernel module: (.*)|failed to initialize kvm: (.*)"),
        PermanentError,
        "QEMU may not use KVM",
        "Let the user that runs ghvm use /dev/kvm: sudo adduser USER kvm.",
    ),
)


def not_started(words: str, code: int | None) -> GhvmError:
    """The error for a QEMU that ended before its guest's first instruction, from its log and its exit code."""
    for pattern, kind, brief, resolution in _KNOWN:
        if match := pattern.search(words):
            return kind(brief.format(*match.groups()), details=words, resolution=resolution)
    return NotUpError(
        "QEMU did not start the virtual machine",
        details=words or f"No message; exit code {code}.",
        resolution="`ghvm --debug run …` shows QEMU's command line.",
    )
