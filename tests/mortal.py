"""Runs ghvm and tells every moment at which it is about to change something outside itself, or kills it at one.

    python -m tests.mortal JOURNAL MOMENT ghvm-arguments…

Python raises an audit event before each such change. A moment is the event, the file (without what differs from run to
run) and how often they have come together. All are written to JOURNAL, one a line. At MOMENT, which may be empty, the
process sends itself SIGKILL, so nothing later has happened in any of its threads.
"""

import os
import re
import runpy
import signal
import sys
import threading
from collections import Counter

_ON_A_FILE = {"os.chmod", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_RANDOM = re.compile(r"[0-9a-f]{7,}|(?<=ghvm)\d+|(?<=/)\d+$|(?<!\w)\d+(?=/stat)")
_REQUEST = re.compile(rb"(DELETE|PATCH|POST|PUT) (\S+) HTTP/")

_LOOK = re.compile(r"/proc/\d+/stat")
"""Changes nothing, but comes right after a child's start, before it can have asked to die with its parent."""


class Moments:
    """The audit hook: it counts, writes down and, at the last moment, kills."""

    def __init__(self, journal: str, last: str) -> None:
        self._journal = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._last = last
        self._met: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __call__(self, event: str, args: tuple[object, ...]) -> None:
        """Called by Python for every audit event in every thread."""
        change = _change(event, args)
        if change is None or "/.coverage" in change:  # what measures the tests is not measured
            return
        with self._lock:
            self._met[change] += 1
            moment = f"{change} #{self._met[change]}"
            os.write(self._journal, f"{moment}\n".encode())
            if moment == self._last:
                os.kill(os.getpid(), signal.SIGKILL)


def _change(event: str, args: tuple[object, ...]) -> str | None:
    """What is about to change, or None if nothing does."""
    match event, args:
        case "open", (str() | bytes() as path, _, int() as flags) if flags & _WRITING and path != os.devnull:
            return f"open {_name(path)}"
        case "open", (str() as path, *_) if _LOOK.fullmatch(path):
            return f"look at {_name(path)}"
        case ("socket.bind", (_, str() | bytes() as path)) | ("subprocess.Popen", (path, *_)):
            return f"{event} {_name(path)}"
        case "http.client.send", (_, bytes() as data) if request := _REQUEST.match(data):
            return f"{request[1].decode()} {_name(request[2])}"
        case _, (path, *_) if event in _ON_A_FILE:
            return f"{event} {_name(path)}"
    return None


def _name(path: object) -> str:
    """The last two parts of a path, with a star for what is random in them; a descriptor's number is that as well."""
    if isinstance(path, int):
        return "*"
    text = os.fsdecode(path) if isinstance(path, bytes) else str(path)
    return _RANDOM.sub("*", "/".join(text.partition("?")[0].split("/")[-2:]))


if __name__ == "__main__":
    journal, last, *arguments = sys.argv[1:]
    sys.argv = ["ghvm", *arguments]
    sys.dont_write_bytecode = True  # else the first run has moments that no other has
    sys.addaudithook(Moments(journal, last))
    runpy.run_module("ghrunner_vm", run_name="__main__", alter_sys=True)
