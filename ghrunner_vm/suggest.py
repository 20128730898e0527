"""What an error about a person's own words shares: the nearest right key and the first fault."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import ValidationError


@dataclass(frozen=True)
class Fault:
    """One thing that a pydantic model refused: where (`cpu-cores`, `labels.0`), the kind of fault and why."""

    key: str
    kind: str
    why: str


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`Did you mean "ram"?`, or all the known words when none is near."""
    words = sorted(known)
    near = difflib.get_close_matches(word, words, n=1)
    return f'Did you mean "{near[0]}"?' if near else f"Known are {', '.join(words)}."


def first_fault(error: ValidationError) -> Fault:
    """The first fault of a refused model, without the value: it may be a secret.

    An unknown key comes before all others, since a misspelt key is also a missing one.
    """
    faults = error.errors(include_url=False, include_input=False)
    fault = min(faults, key=lambda one: one["type"] != "extra_forbidden")
    why = fault["msg"].removeprefix("Value error, ").removeprefix("Input ").rstrip(".")
    return Fault(".".join(map(str, fault["loc"])), fault["type"], why)
