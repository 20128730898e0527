"""A real `ghvm` as a child process, followed by the JSON lines it narrates, and what /proc tells of it."""

import contextlib
import json
import os
import pty
import select
import signal
import socket
import subprocess  # noqa: TID251 the tests talk to a running ghvm and signal it
import termios
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

WAIT_SECONDS = 60.0


@dataclass(frozen=True)
class Line:
    """One line of narration. `facts` are its fields; a line that is not JSON has only a message."""

    message: str
    facts: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def of(cls, text: str) -> "Line":
        with contextlib.suppress(ValueError, TypeError, KeyError):
            facts = json.loads(text)
            return cls(str(facts["message"]), facts)
        return cls(text)

    @property
    def step(self) -> str | None:
        return str(self.facts["step"]) if "step" in self.facts else None


class GhvmRun:
    """A running `ghvm`. Every wait ends with AssertionError and the transcript when its deadline passes."""

    def __init__(self, process: subprocess.Popen[str], *, deaf_after: str | None = None) -> None:
        """Once a line tells of the step `deaf_after`, the reader of its stderr goes away."""
        self._process = process
        self._deaf_after = deaf_after
        self._news = threading.Condition()
        self._lines: list[Line] = []
        self._ended = False
        self._stdout = ""
        self._readers = [threading.Thread(target=read, daemon=True) for read in (self._read_lines, self._read_result)]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def lines(self) -> list[Line]:
        with self._news:
            return list(self._lines)

    @property
    def steps(self) -> list[str | None]:
        return [line.step for line in self.lines]

    @property
    def result(self) -> Mapping[str, object]:
        """The JSON document on stdout, once the program has ended."""
        value = json.loads(self._stdout)
        assert isinstance(value, dict)
        return value

    @property
    def outcome(self) -> object:
        return self.result["outcome"]

    def wait(self, step: str, timeout: float = WAIT_SECONDS) -> Line:
        """The first line that tells of this step, once it is there."""

        def found() -> Line | None:
            return next((line for line in self._lines if line.step == step), None)

        with self._news:
            self._news.wait_for(lambda: found() is not None or self._ended, timeout)
            line = found()
            assert line is not None, f"{step} was not told within {timeout:.0f} s:\n{self.transcript()}"
            return line

    def wait_exit(self, timeout: float = WAIT_SECONDS) -> int:
        """The exit code, once all output has been read."""
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"ghvm did not end within {timeout:.0f} s:\n{self.transcript()}") from None
        for reader in self._readers:
            reader.join(timeout)
        return code

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def die(self, *others: int) -> None:
        """SIGKILL; these processes, which live by it, end as well."""
        with contextlib.ExitStack() as stack:
            pidfds = [os.pidfd_open(pid) for pid in others]
            for pidfd in pidfds:
                stack.callback(os.close, pidfd)
            self.send(signal.SIGKILL)
            for pidfd in pidfds:
                wait_gone(pidfd)

    def transcript(self) -> str:
        return "\n".join(f"{line.step or '-'}: {line.message}" for line in self._lines)

    def close(self) -> None:
        """End it for sure; a virtual machine it has dies with it."""
        self._process.kill()
        self._process.wait(WAIT_SECONDS)
        for reader in self._readers:
            reader.join(WAIT_SECONDS)
        for pipe in (self._process.stdout, self._process.stderr):
            assert pipe is not None
            pipe.close()

    def _read_lines(self) -> None:
        assert self._process.stderr is not None
        for text in self._process.stderr:
            line = Line.of(text.rstrip("\n"))
            deaf = self._deaf_after is not None and line.step == self._deaf_after
            if deaf:
                self._process.stderr.close()
            with self._news:
                self._lines.append(line)
                self._news.notify_all()
            if deaf:
                break
        with self._news:
            self._ended = True
            self._news.notify_all()

    def _read_result(self) -> None:
        assert self._process.stdout is not None
        self._stdout = self._process.stdout.read()


class Following:
    """A program whose output is read while it runs."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process

    def until(self, words: str, timeout: float = WAIT_SECONDS) -> str:
        """What it prints from here on, once `words` are in it."""
        assert self._process.stdout is not None
        said = b""
        while words.encode() not in said:
            readable, _, _ = select.select([self._process.stdout], [], [], timeout)
            piece = self._process.stdout.read(1 << 16) if readable else b""
            assert piece, f"{words!r} was not said: {said!r}"
            said += piece
        return said.decode()

    def wait(self, timeout: float = WAIT_SECONDS) -> int:
        """Its exit code."""
        return self._process.wait(timeout)

    def close(self) -> None:
        """End it for sure."""
        self._process.kill()
        self._process.wait(WAIT_SECONDS)
        assert self._process.stdout is not None
        self._process.stdout.close()


class OnTerminal:
    """A program on a terminal of its own."""

    def __init__(self, argv: Sequence[str], environment: Mapping[str, str]) -> None:
        self._ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (24, 120))
        # Its own session and terminal, so that Ctrl-C is the terminal's.
        self._process = subprocess.Popen(
            ["setsid", "--ctty", *argv],  # noqa: S607 of the system
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment,
        )
        os.close(theirs)

    def until(self, words: str, timeout: float = WAIT_SECONDS) -> str:
        """What it shows from here on, once `words` are in it."""
        said = b""
        while words.encode() not in said:
            readable, _, _ = select.select([self._ours], [], [], timeout)
            assert readable, f"{words!r} was not shown: {said!r}"
            said += os.read(self._ours, 1 << 16)
        return said.decode()

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def wait(self, timeout: float = WAIT_SECONDS) -> int:
        return self._process.wait(timeout)

    def close(self) -> None:
        self._process.kill()
        self._process.wait(WAIT_SECONDS)
        os.close(self._ours)


class Gate:
    """Holds up a job: its command answers to the guest only once `open` is called."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._visitor: socket.socket | None = None
        self.port: int = self._listening.getsockname()[1]
        self.command = f"wget -q -O /dev/null http://10.0.2.2:{self.port}/"

    def wait_reached(self, timeout: float = WAIT_SECONDS) -> None:
        """The job stands before the gate."""
        self._listening.settimeout(timeout)
        self._visitor, _ = self._listening.accept()
        self._visitor.settimeout(timeout)
        # All of the request: a close with unread bytes would reset the connection and lose the answer.
        request = b""
        while not request.endswith(b"\r\n\r\n"):
            piece = self._visitor.recv(4096)
            assert piece, "the job went away before the gate"
            request += piece

    def open(self) -> None:
        """Let the job go on."""
        assert self._visitor is not None
        self._visitor.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
        self._visitor.close()

    def close(self) -> None:
        self._listening.close()
        if self._visitor is not None:
            self._visitor.close()


def proc(pid: int, file: str) -> bytes:
    """A file of a process in /proc; empty if the process is gone."""
    try:
        return Path(f"/proc/{pid}/{file}").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def children(pid: int) -> list[int]:
    """The processes that a process has started, and theirs."""
    started = [int(text) for text in proc(pid, f"task/{pid}/children").split()]
    return started + [later for child in started for later in children(child)]


def wait_gone(pidfd: int, timeout: float = WAIT_SECONDS) -> None:
    """The process behind a pidfd has ended."""
    readable, _, _ = select.select([pidfd], [], [], timeout)
    assert readable, f"the process did not end within {timeout:.0f} s"


def processes() -> list[int]:
    """The ids of all processes."""
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
