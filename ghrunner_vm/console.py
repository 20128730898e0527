"""What a person or a script sees: results on stdout, narration on stderr."""

import contextlib
import functools
import json
import os
import queue
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, TextIO

from ghrunner_vm.errors import GhvmError
from ghrunner_vm.units import format_size

if TYPE_CHECKING:
    from rich.console import Console as RichConsole

LogFormat = Literal["text", "json"]
Advance = Callable[[int], None]
Backlog = queue.Queue[Callable[[], None] | None]
Bar = Callable[[str, int | None], contextlib.AbstractContextManager[Advance]]

_BACKLOG = 1000
_CONTROL = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[@-Z\\-_c])")  # the control sequences of ECMA-48
_FLUSH_SECONDS = 2.0


class _Stream:
    """Stdout or stderr: styled on a terminal, plain elsewhere. Nobody watches most runs: those do without rich."""

    def __init__(self, name: Literal["stdout", "stderr"]) -> None:
        self._name = name

    @property
    def is_terminal(self) -> bool:
        """Whether styles are wanted: see https://force-color.org."""
        return self._stream.isatty() or bool(os.environ.get("FORCE_COLOR"))

    def print(self, *pieces: tuple[str, str], end: str = "\n") -> None:
        """One line made of texts with their styles."""
        if self.is_terminal:
            from rich.text import Text

            self.rich.print(Text.assemble(*pieces), end=end)
        else:
            self._stream.write("".join(text for text, _ in pieces) + end)
            self._stream.flush()

    @functools.cached_property
    def rich(self) -> "RichConsole":
        """The terminal as rich sees it."""
        from ghrunner_vm.terminal import Terminal

        return Terminal(stderr=self._name == "stderr", soft_wrap=True, highlight=False)

    @property
    def _stream(self) -> TextIO:
        return sys.stdout if self._name == "stdout" else sys.stderr


class Console:
    """Renders text for people, or one JSON object a line (`log_format="json"`) for machines."""

    def __init__(self, log_format: LogFormat = "text") -> None:
        self.log_format = log_format
        self._backlog: Backlog | None = None
        self._out = _Stream("stdout")
        self._err = _Stream("stderr")

    @property
    def interactive(self) -> bool:
        """Whether somebody watches the narration on a terminal."""
        return self.log_format == "text" and self._err.is_terminal

    def say(self, message: str, **fields: object) -> None:
        """Narrate one step on stderr; `fields` are for the JSON form only."""
        self._narrate("info", message, fields, style="")

    def echo(self, message: str, **fields: object) -> None:
        """Narrate what a guest says. It is dropped first, so that a flood of it hides nothing else that is told."""
        self._narrate("info", message, fields, style="", room=_BACKLOG // 2)

    def warn(self, message: str, **fields: object) -> None:
        """Narrate something that a person should look at."""
        mark = "" if self.log_format == "json" else "warning: "
        self._narrate("warning", mark + message, fields, style="yellow")

    def error(self, error: GhvmError) -> None:
        """The one place where an error is printed: what happened, the detail, what to do."""
        if self.log_format == "json":
            parts = {"details": error.details, "resolution": error.resolution, "exit-code": int(error.exit_code)}
            self._narrate("error", error.brief, parts, style="")
            return
        with contextlib.suppress(OSError):  # else the exit code would be another one
            self._err.print(("error: ", "bold red"), (printable(error.brief), ""))
            if error.details:
                self._err.print((printable(error.details), ""))
            if error.resolution:
                self._err.print(("→ ", "bold"), (printable(error.resolution), ""))

    def result(self, text: str, *, end: str = "\n") -> None:
        """Print a result on stdout."""
        self._out.print((printable(text), ""), end=end)

    def styled(self, *pieces: tuple[str, str]) -> None:
        """Print a result of texts with their styles, on one line of stdout."""
        self._out.print(*((printable(text), style) for text, style in pieces))

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print rows as a table on stdout, nothing at all if there are none. No cell is ever cut off."""
        for number, line in enumerate(_aligned(columns, rows)):
            self._out.print((line, "" if number else "bold"))

    @contextlib.contextmanager
    def redrawn(self, columns: Sequence[str]) -> Iterator[Callable[[Sequence[Sequence[str]], str], None]]:
        """Yields a function that shows a table anew, or words in its place: on a terminal where the last one was."""
        if self._out.is_terminal:
            from ghrunner_vm.terminal import redrawn

            with redrawn(self._out.rich) as show:
                yield lambda rows, words: show("\n".join(_aligned(columns, rows)) or words)
        else:
            yield lambda rows, words: self.table(columns, rows) if rows else self.result(words)

    def result_json(self, value: object) -> None:
        """Print a result on stdout as one JSON document."""
        sys.stdout.write(json.dumps(value, indent=2, sort_keys=False) + "\n")
        sys.stdout.flush()

    @contextlib.contextmanager
    def progress(self, label: str, total: int | None) -> Iterator[Advance]:
        """A bar of bytes on a terminal, a line each tenth elsewhere. Yields a function that takes the bytes added."""
        if self.interactive:
            from ghrunner_vm.terminal import bar

            with bar(self._err.rich, label, total) as advance:
                yield advance
        else:
            yield self._tenths(label, total)

    def _tenths(self, label: str, total: int | None) -> Advance:
        done, told = 0, 0

        def advance(count: int) -> None:
            nonlocal done, told
            done += count
            tenths = done * 10 // total if total else 0
            if tenths > told:
                told = tenths
                self.say(f"{label}: {tenths * 10} % of {format_size(total or 0)}", bytes=done)

        return advance

    @contextlib.contextmanager
    def waiting(self, words: str) -> Iterator[Callable[[str, bool], None]]:
        """Tell what is waited for; yields a function that takes the words as they are by now, and whether they matter.

        On a terminal a line is kept up to date; elsewhere only words that matter are told, one line each.
        """
        if self.interactive:
            from rich.text import Text  # plain text would be read as rich's markup, which a guest may write

            with self._err.rich.status(Text(printable(words))) as status:
                yield lambda now, _matters: status.update(Text(printable(now)))
        else:
            self.say(words)
            yield lambda now, matters: self.say(now) if matters else None

    @contextlib.contextmanager
    def from_a_thread(self) -> Iterator[None]:
        """Narrate from a thread of its own: a reader that stalls (Ctrl-S, a full pipe) must not stall the run.

        What does not fit into a bounded backlog is dropped; at the end the rest has two seconds.
        """
        backlog: Backlog = queue.Queue(_BACKLOG)
        teller = threading.Thread(target=_tell_all, args=(backlog,), name="narration", daemon=True)
        teller.start()
        self._backlog = backlog
        try:
            yield
        finally:
            self._backlog = None
            try:
                backlog.put(None, timeout=_FLUSH_SECONDS)
                teller.join(_FLUSH_SECONDS)
            except queue.Full:
                _discard(backlog)

    def _narrate(
        self, level: str, message: str, fields: Mapping[str, object], *, style: str, room: int = _BACKLOG
    ) -> None:
        def write() -> None:
            self._write(level, message, fields, style)

        if self._backlog is None:
            write()
        elif self._backlog.qsize() < room:
            with contextlib.suppress(queue.Full):
                self._backlog.put_nowait(write)

    def _write(self, level: str, message: str, fields: Mapping[str, object], style: str) -> None:
        # A terminal that was closed or a reader that went away is no reason to end what is being told of.
        with contextlib.suppress(OSError):
            if self.log_format == "json":
                line = {"level": level, "message": message, **{k: v for k, v in fields.items() if v is not None}}
                sys.stderr.write(json.dumps(line, default=str) + "\n")
                sys.stderr.flush()
            else:
                self._err.print((printable(message), style))


def _aligned(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [[printable(cell).replace("\n", " ") for cell in row] for row in rows]
    if not cells:
        return []
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (columns, *cells)
    ]


def _discard(backlog: Backlog) -> None:
    with contextlib.suppress(queue.Empty):
        while True:
            backlog.get_nowait()
    backlog.put_nowait(None)


def _tell_all(backlog: Backlog) -> None:
    while (write := backlog.get()) is not None:
        write()


class Meter(contextlib.ExitStack):
    """A progress bar that appears with the first byte, once the total is known if it ever is."""

    def __init__(self, bar: Bar, label: str) -> None:
        super().__init__()
        self._bar = bar
        self._label = label
        self._advance: Advance | None = None
        self._shown = 0

    def show(self, done: int, total: int | None) -> None:
        """`done` bytes of `total` are there."""
        if self._advance is None:
            self._advance = self.enter_context(self._bar(self._label, total))
        self._advance(done - self._shown)
        self._shown = done


def plain(text: str) -> str:
    """The text without colours, cursor movements and the like, which firmware and kernels like to print."""
    return _CONTROL.sub("", text).replace("\r", "")


def printable(text: str) -> str:
    """The text without what could drive a terminal: much of what is shown comes from a guest or a server."""
    return "".join(char if char.isprintable() or char in "\t\n" else "\N{REPLACEMENT CHARACTER}" for char in text)
