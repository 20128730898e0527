"""What was once found out about a QEMU binary, kept in a file until the binary changes."""

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

from ghrunner_vm.files import write_atomically


def identity(binary: str) -> list[object]:
    """What tells this binary from another one in its place."""
    path = Path(binary).resolve()
    stat = path.stat()
    return [str(path), stat.st_ino, stat.st_size, stat.st_mtime_ns]


def recall(file: Path, key: Sequence[object]) -> object:
    """The value that was kept under exactly this key; None if there is none."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["key"] == list(key):
            return kept["value"]
    return None


def keep(file: Path, key: Sequence[object], value: object) -> None:
    """Keep a value under a key, in place of what was there. What cannot be kept will be found out again."""
    with contextlib.suppress(OSError):
        write_atomically(file, json.dumps({"key": list(key), "value": value}).encode())
