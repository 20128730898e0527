"""What needs rich: a terminal that somebody looks at."""

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.text import Text


class Terminal(Console):
    """A terminal, which may go away at any time."""

    def on_broken_pipe(self) -> None:
        """Say no more. Since 13.8 rich would end the process here, and with it the virtual machine and its job."""
        self.quiet = True


@contextlib.contextmanager
def redrawn(terminal: Console) -> Iterator[Callable[[str], None]]:
    """Yields a function that shows text where the last one was; the last of all stays."""
    with Live(console=terminal, auto_refresh=False, vertical_overflow="crop") as live:
        yield lambda text: live.update(Text(text, no_wrap=True, overflow="ellipsis"), refresh=True)


@contextlib.contextmanager
def bar(terminal: Console, label: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A progress bar of bytes. Yields a function that takes the bytes added."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True))
    with Progress(*columns, TransferSpeedColumn(), TimeRemainingColumn(), console=terminal) as progress:
        task = progress.add_task(label, total=total)
        yield lambda count: progress.advance(task, count)
