"""What is printed where, for people and for machines."""

import contextlib
import errno
import io
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from ghrunner_vm.console import Console, LogFormat
from ghrunner_vm.errors import GhvmError, UsageError

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")


def test_results_and_narration_do_not_mix(capsys: Capture) -> None:
    console = Console()
    console.say("one step")
    console.warn("look here")
    console.result("[the] result")
    assert capsys.readouterr() == ("[the] result\n", "one step\nwarning: look here\n")


def test_long_lines_are_not_broken(capsys: Capture) -> None:
    Console().say("word " * 50)
    assert capsys.readouterr().err.count("\n") == 1


def test_an_error_without_more_to_say_is_one_line(capsys: Capture) -> None:
    Console().error(GhvmError("it broke"))
    assert capsys.readouterr().err == "error: it broke\n"


def test_nothing_drives_the_terminal(capsys: Capture) -> None:
    console = Console()
    hostile = "a\x1b[2Jb\x1b]0;title\x07c\r\u202ed\x9b1m"
    console.say(hostile)
    console.result(hostile)
    console.error(GhvmError(hostile, details=hostile, resolution=hostile))
    printed = "".join(capsys.readouterr())
    assert not [char for char in printed if not char.isprintable() and char != "\n"]


def test_what_is_waited_for_is_no_markup(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest names its job."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    with Console().waiting("run busy [/] x[/]") as now:
        now("run busy [link=http://evil.example]GitHub[/link]", True)
    assert "http://evil.example]" in "".join(capsys.readouterr()).replace("\n", "")


def test_every_line_for_machines_is_json(capsys: Capture) -> None:
    console = Console("json")
    console.say("one\nstep\x1b", step="boot", seconds=1.5, nothing=None, odd={1})
    console.warn("look here")
    console.error(UsageError("wrong", resolution="do right"))
    out, err = capsys.readouterr()
    assert out == ""
    assert [json.loads(line) for line in err.splitlines()] == [
        {"level": "info", "message": "one\nstep\x1b", "step": "boot", "seconds": 1.5, "odd": "{1}"},
        {"level": "warning", "message": "look here"},
        {"level": "error", "message": "wrong", "resolution": "do right", "exit-code": 2},
    ]


def test_a_result_for_machines_is_one_document(capsys: Capture) -> None:
    Console("json").result_json({"schema": 1, "runs": []})
    assert json.loads(capsys.readouterr().out) == {"schema": 1, "runs": []}


def test_progress_without_a_terminal_is_a_line_each_tenth(capsys: Capture) -> None:
    console = Console()
    assert not console.interactive
    with console.progress("pulling", 1000) as advance:
        for _ in range(100):
            advance(10)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"pulling: {tenth}0 % of 1000 B" for tenth in range(1, 11)]


def test_progress_in_leaps_tells_only_where_it_is(capsys: Capture) -> None:
    with Console("json").progress("pulling", 100) as advance:
        advance(9)
        advance(46)
        advance(0)
        advance(45)
    told = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["message"], line["bytes"]) for line in told] == [
        ("pulling: 50 % of 100 B", 55),
        ("pulling: 100 % of 100 B", 100),
    ]


@pytest.mark.parametrize("total", [None, 0])
def test_progress_without_a_total_says_nothing(capsys: Capture, total: int | None) -> None:
    with Console().progress("pulling", total) as advance:
        advance(1 << 30)
    assert capsys.readouterr() == ("", "")


class ClosedTerminal(io.StringIO):
    """What the kernel says of a terminal that is gone."""

    def isatty(self) -> bool:
        return True

    def write(self, _: str) -> int:
        raise OSError(errno.EIO, "Input/output error")


@contextlib.contextmanager
def unread_pipe() -> Iterator[io.TextIOBase]:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb", buffering=0) as raw, io.TextIOWrapper(raw, write_through=True) as pipe:
        yield pipe


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize("stream", [unread_pipe, ClosedTerminal])
def test_whoever_stops_listening_stops_nothing(
    log_format: LogFormat, stream: Callable[[], contextlib.AbstractContextManager[io.TextIOBase]], capfd: Capture
) -> None:
    # Inside the test, since pytest puts its own stderr in place before each one.
    with stream() as deaf, contextlib.redirect_stderr(deaf):
        console = Console(log_format)
        for _ in range(2):
            console.say("one step")
            console.warn("look here")
            console.error(GhvmError("it broke", details="for a reason", resolution="mend it"))
        console.result("the result")
    assert capfd.readouterr().out == "the result\n"


def test_a_reader_that_stalls_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three megabytes into a pipe that takes 64 KiB: this returns, or the test's deadline ends it."""
    read, write = os.pipe()
    with os.fdopen(write, "wb", buffering=0) as raw, io.TextIOWrapper(raw, write_through=True) as pipe:
        monkeypatch.setattr(sys, "stderr", pipe)
        console = Console("json")
        with console.from_a_thread():
            for number in range(3000):
                console.say("x" * 1000, number=number)
        os.close(read)
        for thread in threading.enumerate():
            if thread.name == "narration":
                thread.join(30)


def test_what_was_told_from_a_thread_is_there_at_the_end(capsys: Capture) -> None:
    console = Console("json")
    with console.from_a_thread():
        for number in range(10):
            console.say("step", number=number)
    assert [json.loads(line)["number"] for line in capsys.readouterr().err.splitlines()] == list(range(10))


def test_a_table_is_aligned_and_whole(capsys: Capture) -> None:
    Console().table(["RUN", "IMAGE"], [["a", "ubuntu\x1b[2J"], ["a-long-name", "x" * 60], ["b", ""]])
    assert capsys.readouterr().out.splitlines() == [
        "RUN          IMAGE",
        "a            ubuntu\ufffd[2J",
        f"a-long-name  {'x' * 60}",
        "b",
    ]


def test_a_table_without_rows_is_nothing(capsys: Capture) -> None:
    Console().table(["RUN"], [])
    assert capsys.readouterr().out == ""
