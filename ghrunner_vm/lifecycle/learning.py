"""Lists of what jobs reach, as a person can put them into the configuration (`ghvm run --egress-learn`)."""

import os
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path

from ghrunner_vm.egress import parse
from ghrunner_vm.errors import UsageError
from ghrunner_vm.files import write_atomically

_HEAD = """\
# What the jobs of {label} have reached. Look it over, and put it into ghvm's config.toml, or its lists into the spec.
egress = "listed"
egress-allow = [
"""
_MAX_FILE = 1 << 20


def add(file: Path, label: str, reached: Iterable[str], refused: Sequence[str]) -> None:
    """Add what a run has reached to the list in `file`; what it was refused stands there as comments.

    Runs that end at the same time must take turns. Raises UsageError if the file is no such list, and OSError.
    """
    entries = sorted({*known(file), *map(str, parse(reached))})
    lines = [*(f'    "{entry}",' for entry in entries), "]", *(f"# refused: {one}" for one in refused)]
    write_atomically(file, (_HEAD.format(label=label) + "\n".join(lines) + "\n").encode(), mode=0o644)


def check(file: Path) -> None:
    """Raise UsageError unless a list can be kept in `file`."""
    try:
        known(file)
        writable = os.access(file.absolute().parent, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        raise UsageError(
            f"What guests reach cannot be written to {file}", resolution="Name a file in a directory that is there."
        )


def known(file: Path) -> list[str]:
    """The entries of the list in `file`; none if there is no such file. Raises UsageError and OSError."""
    try:
        with file.open("rb") as opened:
            listed = tomllib.loads(opened.read(_MAX_FILE).decode()).get("egress-allow", [])
        return [str(entry) for entry in parse(listed)]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError) as error:  # TOML's and UTF-8's are ValueErrors
        raise UsageError(
            f"{file} is no list that ghvm has learnt", details=str(error)[:500], resolution="Name another file."
        ) from error
