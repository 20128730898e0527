"""Reads the black box of a run that is over and says why it ended."""

import os
import stat
from pathlib import Path

from ghrunner_vm import process, runs
from ghrunner_vm.console import plain
from ghrunner_vm.ledger import Entry
from ghrunner_vm.lifecycle.reason import LastWords, Why, why
from ghrunner_vm.ring import old

_ENOUGH = 256 << 10


def why_of(entry: Entry) -> Why:
    """Why the run ended, from all that is known of it."""
    rebooted = entry.record.boot_id != process.boot_id()
    return why(entry.record, last_words(entry.path), rebooted=rebooted)


def last_words(path: Path) -> LastWords:
    """The ends of the rings in the directory of a run."""
    console, runner, vmm = (last(path, name, _ENOUGH) for name in (runs.CONSOLE, runs.RUNNER, runs.VMM))
    return LastWords(console, runner, vmm)


def last(path: Path, name: str, limit: int) -> str:
    """The last `limit` bytes of a ring as plain text; empty if there is none."""
    content = b""
    for part in (name, old(name)):
        content = _end(path / part, limit - len(content)) + content
    return plain(content.decode(errors="replace"))


def _end(path: Path, limit: int) -> bytes:
    """The end of a plain file; a link or a device in its place tells nothing."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or limit <= 0:
            return b""
        return os.pread(descriptor, limit, max(0, found.st_size - limit))
    finally:
        os.close(descriptor)
