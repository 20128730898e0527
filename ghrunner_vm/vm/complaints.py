"""What the last words of a VMM that does not start mean, whatever its kind."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ghrunner_vm.errors import GhvmError, InfrastructureError


@dataclass(frozen=True)
class Complaint:
    """Words by their pattern; the braces in `brief` take what its groups found."""

    pattern: re.Pattern[str]
    kind: type[GhvmError]
    brief: str
    resolution: str


def no_memory(pattern: str) -> Complaint:
    """The host has not enough of it."""
    return Complaint(
        re.compile(pattern),
        InfrastructureError,
        "This host has not enough memory for the virtual machine",
        'Lower "ram" in the spec, or run fewer machines at once.',
    )


def understood(words: str, known: Iterable[Complaint]) -> GhvmError | None:
    """The error for the first complaint that is found in the words; None if there is none."""
    for complaint in known:
        if match := complaint.pattern.search(words):
            brief = complaint.brief.format(*match.groups())
            return complaint.kind(brief, details=words, resolution=complaint.resolution)
    return None
