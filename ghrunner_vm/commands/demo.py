"""`ghvm demo`: the main job, shown on this host."""

import threading
from pathlib import Path

import click
import platformdirs
from rich.console import Console as RichConsole
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ghrunner_vm.console import Console, printable
from ghrunner_vm.errors import ExitCode, GhvmError
from ghrunner_vm.simulator import demo as show
from ghrunner_vm.simulator.demo import Moment, Summary
from ghrunner_vm.units import format_seconds

# What a person wants to see of a run, and under which name.
_TIMELINE = {
    "building": "building",
    "built": "image built",
    "github": "GitHub up",
    "served": "image served",
    "queued": "job queued",
    "image": "pulled",
    "launched": "launched",
    "ready": "booted",
    "registered": "registered",
    "idle": "listening",
    "busy": "job started",
    "job-finished": "job finished",
    "gone": "gone",
}
_LOG_LINES = 12


@click.command()
@click.option("--job", metavar="SHELL", default=show.JOB, help="What the job runs in the guest.  [default: greets]")
@click.option(
    "--cache-dir", type=click.Path(path_type=Path, file_okay=False), help="Where the tiny image is kept between demos."
)
def demo(job: str, cache_dir: Path | None) -> None:
    """Show the main job on this host: no KVM, no GitHub account, nothing left behind.

    An embedded GitHub on loopback, a tiny real image, an image server, and a real `ghvm run` that boots a virtual
    machine for one job. The machine is emulated if KVM does not work here.

    \b
    Examples:
      ghvm demo
      ghvm demo --job 'uname -a; df -h'
    """
    cache = cache_dir or platformdirs.user_cache_path("ghvm") / "demo"
    console = Console()
    screen = _Live() if console.interactive else _Plain(console)
    with screen:
        summary = show.perform(job, cache, screen.moment, screen.log)
    _conclude(console, summary)


class _Plain:
    """One line a moment, for a log file."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __enter__(self) -> "_Plain":
        return self

    def __exit__(self, *_: object) -> None:
        return

    def moment(self, moment: Moment) -> None:
        if moment.step == "command":
            self._console.say(moment.words)
        elif moment.step in _TIMELINE or moment.step in _LOUD:
            name = _TIMELINE.get(moment.step, moment.step)
            self._console.say(f"{moment.seconds:7.1f} s  {name:<13} {moment.words}")

    def log(self, line: str) -> None:
        self._console.say(f"             job log       │ {line}")


class _Live:
    """A timeline that grows, with the last lines of the job's log below it."""

    def __init__(self) -> None:
        self._moments: list[Moment] = []
        self._lines: list[str] = []
        self._lock = threading.Lock()
        self._live = Live(console=RichConsole(stderr=True), refresh_per_second=8, transient=False)

    def __enter__(self) -> "_Live":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def moment(self, moment: Moment) -> None:
        with self._lock:
            if moment.step in _TIMELINE or moment.step in _LOUD:
                self._moments.append(moment)
                self._draw()

    def log(self, line: str) -> None:
        with self._lock:
            self._lines.append(line)
            self._draw()

    def _draw(self) -> None:
        table = Table.grid(padding=(0, 2))
        for moment in self._moments:
            style = "yellow" if moment.step in _LOUD else "green"
            name = _TIMELINE.get(moment.step, moment.step)
            table.add_row(f"{moment.seconds:6.1f} s", Text(name, style=style), Text(printable(moment.words)))
        for line in self._lines[-_LOG_LINES:]:
            table.add_row("", Text("│", style="dim"), Text(printable(line)))
        self._live.update(table)


_LOUD = ("warning", "error", "trouble", "output", "refused", "channel-closed")


def _conclude(console: Console, summary: Summary) -> None:
    took = format_seconds(summary.seconds)
    if summary.exit_code == ExitCode.INTERRUPTED:
        error = GhvmError("interrupted: the machine is gone, and the demo's GitHub with it")
        error.exit_code = ExitCode.INTERRUPTED
        raise error
    if summary.exit_code or summary.left or summary.job_result is None:
        left = f"Left behind: {', '.join(summary.left)}" if summary.left else None
        raise GhvmError(f"the demo did not go well: `ghvm run` exited with {summary.exit_code}", details=left)
    verdict = "succeeded" if summary.job_result == "success" else "failed, as jobs may; ghvm did its part"
    console.result(
        f"One job, one virtual machine, gone after {took}.\n"
        f"The job {verdict}.\n"
        "Nothing is left: no machine, no disk, no registration."
    )
