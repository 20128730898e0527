"""Programs whose output is read while they run: told line by line, or taken as one stream."""

import collections
import contextlib
import logging
import os
import select
import shlex
import signal
import subprocess  # noqa: TID251 a part of the one place
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BufferedReader
from typing import IO, cast

from ghrunner_vm.clock import SYSTEM
from ghrunner_vm.errors import InfrastructureError
from ghrunner_vm.process import CommandFailed, CommandMissing, environment, lowest
from ghrunner_vm.process.pipe import Pipe, lines

log = logging.getLogger(__name__)

_TIDY_SECONDS = 10.0
_LOOK_SECONDS = 0.2
_IDLE_LOOKS = 5
"""After so many of them without a child, a program is at work itself."""
_LAST_LINES = 20
_LAST_BYTES = 4 << 10
_CHUNK = 256 << 10


def narrated(
    argv: Sequence[str],
    *,
    timeout: float,
    tell: Callable[[str], None],
    env: Mapping[str, str] | None = None,
    from_below: bool = False,
) -> None:
    """Run a program that must end well within `timeout` seconds, and tell each line of both its outputs as it comes.

    If it has to be ended it gets SIGTERM and some seconds, since it may have something to put in order. `from_below`
    is for one that puts nothing in order then: before, it sees the programs that it started fail, for some seconds.
    Raises CommandMissing, CommandFailed with its last lines or, past the deadline, InfrastructureError.
    """
    last: collections.deque[str] = collections.deque(maxlen=_LAST_LINES)
    deadline = SYSTEM.monotonic() + timeout

    def left() -> float:
        return max(0, deadline - SYSTEM.monotonic())

    with _piped(argv, stderr=subprocess.STDOUT, env=env, from_below=from_below) as program:
        for line in lines(program.pipe(left, lambda: program.check(left(), lambda: "\n".join(last)))):
            last.append(line)
            tell(line)


@contextlib.contextmanager
def streamed(argv: Sequence[str], *, patience: float, env: Mapping[str, str] | None = None) -> Iterator[BufferedReader]:
    """The standard output of a program. Reading to its end raises CommandFailed unless the program ended well.

    Raises CommandMissing, and InfrastructureError when nothing came for `patience` seconds. What the reader leaves is
    read at the end of the block.
    """
    with tempfile.TemporaryFile() as errors, _piped(argv, stderr=errors.fileno(), env=env) as program:
        pipe = program.pipe(lambda: patience, lambda: program.check(patience, lambda: _end_of(errors)))
        stream: BufferedReader = BufferedReader(pipe, _CHUNK)
        yield stream
        while stream.read(_CHUNK):
            continue


@dataclass(frozen=True)
class _Piped:
    """A program that is read."""

    argv: Sequence[str]
    child: subprocess.Popen[bytes]
    pidfd: int
    from_below: bool

    def pipe(self, patience: Callable[[], float], check: Callable[[], None]) -> Pipe:
        """What it writes; see Pipe."""
        output = cast("IO[bytes]", self.child.stdout).fileno()
        return Pipe(output, self.pidfd, patience=patience, late=self._too_slow, check=check)

    def check(self, patience: float, said: Callable[[], str]) -> None:
        """Raise CommandFailed unless it ends well; it has closed its output, and must end soon."""
        try:
            code = self.child.wait(patience)
        except subprocess.TimeoutExpired as error:
            raise self._too_slow() from error
        if code != 0:
            raise CommandFailed(self.argv, code, said())

    def end(self) -> None:
        """SIGTERM, and SIGKILL for what is left of its group after some seconds."""
        if self.child.returncode is not None:
            return
        try:
            if self.from_below and self._failed_from_below():
                return
            signal.pidfd_send_signal(self.pidfd, signal.SIGTERM)
            self._ends_within(_TIDY_SECONDS)
        finally:
            # As long as nobody has asked for its exit code, the number is its own.
            os.killpg(self.child.pid, signal.SIGKILL)

    def _failed_from_below(self) -> bool:
        """Whether it ended because what it runs was killed, again and again: the next command may follow."""
        deadline = SYSTEM.monotonic() + _TIDY_SECONDS
        idle = 0
        while idle < _IDLE_LOOKS and SYSTEM.monotonic() < deadline:
            found = lowest(self.child.pid)
            idle = 0 if found else idle + 1
            for pid in found:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            if self._ends_within(_LOOK_SECONDS):
                return True
        return False

    def _ends_within(self, seconds: float) -> bool:
        return bool(select.select([self.pidfd], [], [], seconds)[0])

    def _too_slow(self) -> InfrastructureError:
        return InfrastructureError(f"{self.argv[0]} did not go on in time and was ended", details=shlex.join(self.argv))


@contextlib.contextmanager
def _piped(
    argv: Sequence[str], *, stderr: int, env: Mapping[str, str] | None, from_below: bool = False
) -> Iterator[_Piped]:
    """A program in a session of its own: Ctrl-C reaches it as SIGTERM, by us."""
    log.debug("begin %s", shlex.join(argv))
    null, pipe = subprocess.DEVNULL, subprocess.PIPE
    try:
        child = subprocess.Popen(
            argv, bufsize=0, stdin=null, stdout=pipe, stderr=stderr, start_new_session=True, env=environment(env)
        )
    except FileNotFoundError as error:
        raise CommandMissing(argv[0]) from error
    with child, contextlib.ExitStack() as stack:
        pidfd = os.pidfd_open(child.pid)
        stack.callback(os.close, pidfd)
        program = _Piped(argv, child, pidfd, from_below)
        stack.callback(program.end)
        yield program


def _end_of(file: IO[bytes]) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _LAST_BYTES))
    return file.read().decode(errors="replace")


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """In the main thread SIGTERM and SIGHUP end the block as Ctrl-C does, so that it gives back what it holds."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt
