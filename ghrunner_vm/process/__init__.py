"""Where every other program is started: list argv, minimal environment, killed and reaped whatever happens."""

import asyncio
import contextlib
import logging
import os
import resource
import select
import shlex
import shutil
import signal
import subprocess  # noqa: TID251 the one place
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ghrunner_vm.errors import InfrastructureError, PermanentError

log = logging.getLogger(__name__)

_REAP_SECONDS = 10.0
_PASSED_ON = ("HOME", "LANG", "TMPDIR", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR")
# A user's PATH often lacks the directories of mkfs.ext4 and its like.
_ALWAYS_SEARCHED = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"


class CommandFailed(InfrastructureError):
    """A helper program ended with an error."""

    def __init__(self, argv: Sequence[str], code: int, output: str) -> None:
        super().__init__(f"{argv[0]} failed with exit code {code}", details=f"{shlex.join(argv)}\n{output.strip()}")
        self.code = code
        self.output = output


class CommandMissing(PermanentError):
    """A helper program is not installed."""

    def __init__(self, program: str) -> None:
        super().__init__(f"{program} is not installed", resolution=f"Install the package that has {program}.")


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The few variables a child needs, and `extra`; nothing else is passed on, tokens least of all."""
    kept = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    path = ":".join(filter(None, (os.environ.get("PATH"), _ALWAYS_SEARCHED)))
    return {"PATH": path, **kept, **(extra or {})}


def allow_descriptors(wanted: int) -> None:
    """Let this process have so many files and sockets open, as far as it may: many systems begin with 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


def require(program: str) -> None:
    """Raise CommandMissing unless a program is there."""
    if shutil.which(program, path=environment()["PATH"]) is None:
        raise CommandMissing(program)


def run(argv: Sequence[str], *, timeout: float, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """The standard output of a program that must end well within `timeout` seconds.

    Raises CommandMissing, CommandFailed (with both outputs) or, past the deadline, InfrastructureError.
    """
    with begin(argv, cwd=cwd, env=env) as program:
        return program.finish(timeout=timeout)


@dataclass(frozen=True)
class Program:
    """A program that runs, and may wait for its input."""

    _argv: Sequence[str]
    _process: subprocess.Popen[str]

    def finish(self, given: str = "", *, timeout: float) -> str:
        """Its standard output once it has ended well, with `given` as its whole standard input.

        Raises CommandFailed (with both outputs) or, after `timeout` seconds, InfrastructureError.
        """
        try:
            output, errors = self._process.communicate(given, timeout)
        except subprocess.TimeoutExpired as error:
            brief = f"{self._argv[0]} did not end within {timeout:.0f} s"
            raise InfrastructureError(brief, details=shlex.join(self._argv)) from error
        if self._process.returncode != 0:
            raise CommandFailed(self._argv, self._process.returncode, output + errors)
        return output

    def dismiss(self) -> None:
        """It is not needed: nothing happens if it has ended."""
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def begin(argv: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> Iterator[Program]:
    """A program to be finished within the block, at whose end it is killed; Ctrl-C does not reach it.

    Raises CommandMissing.
    """
    log.debug("begin %s", shlex.join(argv))
    pipe = subprocess.PIPE
    try:
        process = subprocess.Popen(
            argv,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            text=True,
            errors="replace",
            start_new_session=True,
            cwd=cwd,
            env=environment(env),
        )
    except FileNotFoundError as error:
        raise CommandMissing(argv[0]) from error
    with process:
        program = Program(argv, process)
        try:
            yield program
        finally:
            program.dismiss()


def foreground(argv: Sequence[str]) -> int:
    """The exit code of a program that a person uses on this terminal, which also gets its Ctrl-C.

    It has the person's environment, apart from ghvm's own settings: a token may be among them. Raises CommandMissing.
    """
    if shutil.which(argv[0]) is None:
        raise CommandMissing(argv[0])
    log.debug("foreground %s", shlex.join(argv))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GHVM_")}
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        # A child inherits what is ignored, so the default is put back in it (execve(2) resets handlers only).
        return subprocess.Popen(["/usr/bin/env", "--default-signal=INT", *argv], env=kept).wait()
    finally:
        signal.signal(signal.SIGINT, before)


def exit_code(
    argv: Sequence[str], *, timeout: float, inherit: Sequence[int] = (), output: int = subprocess.DEVNULL
) -> int | None:
    """The exit code of a program that need not succeed; None if it outlived `timeout`. `output` takes what it says."""
    with start(argv, inherit=inherit, stderr=output) as child:
        return child.join(timeout)


@dataclass(frozen=True)
class Child:
    """A running program, addressed by pidfd so that a reused process id is never hit."""

    pid: int
    pidfd: int
    started: int
    """Clock ticks since boot at the start of the process (field 22 of /proc/PID/stat)."""
    _process: subprocess.Popen[bytes]

    async def wait(self) -> int:
        """The exit code once the program has ended; minus the signal's number if a signal ended it."""
        if self._process.returncode is None:
            loop = asyncio.get_running_loop()
            ended = asyncio.Event()
            loop.add_reader(self.pidfd, ended.set)
            try:
                await ended.wait()
            finally:
                loop.remove_reader(self.pidfd)
        return self._process.wait()

    def poll(self) -> int | None:
        """The exit code if the program has ended."""
        return self._process.poll()

    def join(self, timeout: float) -> int | None:
        """Block until the program has ended, and give its exit code; None if it outlives `timeout` seconds."""
        readable, _, _ = select.select([self.pidfd], [], [], timeout)
        return self.poll() if readable else None

    def send(self, number: int) -> None:
        """Send a signal; nothing happens if the program has ended."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send(signal.SIGKILL)


@contextlib.contextmanager
def start(
    argv: Sequence[str],
    *,
    inherit: Sequence[int] = (),
    stderr: int,
    stdout: int | None = None,
    env: Mapping[str, str] | None = None,
) -> Iterator[Child]:
    """A child in a session of its own (Ctrl-C does not reach it) that holds only the descriptors in `inherit`.

    Its output goes to the descriptor `stderr`, the standard output to `stdout` if that is given.

    Must be called in the main thread: a child that asks for a parent-death signal gets it when the *thread* that
    started it ends. The child is killed and reaped at the end of the block.
    """
    log.debug("start %s", shlex.join(argv))
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=stderr if stdout is None else stdout,
            stderr=stderr,
            pass_fds=tuple(inherit),
            start_new_session=True,
            env=environment(env),
        )
    except FileNotFoundError as error:
        raise CommandMissing(argv[0]) from error
    try:
        pidfd = os.pidfd_open(process.pid)
        try:
            yield Child(process.pid, pidfd, start_time(process.pid) or 0, process)
        finally:
            os.close(pidfd)
    finally:
        process.kill()
        # A process that waits for a broken disk cannot be reaped; the kernel will do it after us.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_REAP_SECONDS)


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None if there is no such process, or only its exit code.

    With the boot id it names a process for good: ids are reused, pairs of id and start time are not.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the program's name in parentheses and may itself hold spaces and parentheses.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else int(fields[19])


def lowest(pid: int) -> list[int]:
    """The descendants of a process that have no children themselves: /proc/PID/task/TID/children of proc(5)."""
    children: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            children += [int(child) for child in (task / "children").read_text(encoding="ascii").split()]
    return [descendant for child in children for descendant in (lowest(child) or [child])]


def boot_id() -> str:
    """The kernel's name for this boot of the host (/proc/sys/kernel/random/boot_id)."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
