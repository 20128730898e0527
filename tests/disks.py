"""Looks at the disks that ghvm writes with the tools of e2fsprogs, which know the format from elsewhere."""

import re
from pathlib import Path

from ghrunner_vm import process

_SECONDS = 60.0


def check(disk: Path) -> None:
    """e2fsck finds nothing to mend; else its words are in the error."""
    process.run(["e2fsck", "-fn", str(disk)], timeout=_SECONDS)


def ask(disk: Path, *requests: str) -> str:
    """What debugfs answers."""
    answers = [process.run(["debugfs", "-R", request, str(disk)], timeout=_SECONDS) for request in requests]
    return "".join(answers)


def content(disk: Path, path: str, scratch: Path) -> bytes:
    """The content of a file, as debugfs reads it."""
    ask(disk, f'dump "{path}" {scratch}')
    return scratch.read_bytes()


def stat(disk: Path, path: str) -> dict[str, str]:
    """What debugfs says of a file: its type, mode, owner, group, size and so on."""
    text = ask(disk, f'stat "{path}"')
    return dict(reversed(re.findall(r"(\w+): +(\S+)", text)))  # the first of a name counts
