"""Reading a file of a run while it grows, turns and moves."""

from collections.abc import Callable
from pathlib import Path

from ghrunner_vm.lifecycle.following import content, follow
from ghrunner_vm.ring import Ring


def read(path: Path, *steps: Callable[[], None]) -> str:
    """What is seen when each pause brings one step, and the last one the end."""
    left = list(steps)
    seen = follow(lambda: path, lambda: not left, lambda _: left.pop(0)())
    return b"".join(seen).decode()


def test_what_is_added_is_seen_once(tmp_path: Path) -> None:
    path = tmp_path / "console.log"
    with Ring(path) as ring:
        ring.write(b"one ")
        assert read(path, lambda: ring.write(b"two "), lambda: None, lambda: ring.write(b"three")) == "one two three"


def test_a_moment_without_news_is_told(tmp_path: Path) -> None:
    path = tmp_path / "console.log"
    path.write_bytes(b"login: ")
    pauses = 0

    def pause(_: float) -> None:
        nonlocal pauses
        pauses += 1

    assert list(follow(lambda: path, lambda: pauses == 3, pause)) == [b"login: ", b"", b""]


def test_a_ring_that_turns_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "console.log"
    with Ring(path, limit=10) as ring:
        ring.write(b"0123456789")
        ring.write(b"abc")  # the first turn is before the beginning

        def turn() -> None:
            ring.write(b"defghij")
            ring.write(b"KLM")

        assert read(path, turn, lambda: ring.write(b"NOP")) == "0123456789abcdefghijKLMNOP"
    assert b"".join(content(path)) == b"abcdefghijKLMNOP"


def test_a_file_that_appears_later_and_goes_with_its_run(tmp_path: Path) -> None:
    path, later = tmp_path / "runner.log", tmp_path / "moved.log"

    def appear() -> None:
        path.write_text("one ")

    def move() -> None:
        with path.open("a") as file:
            file.write("two")
        path.rename(later)

    assert read(path, lambda: None, appear, move) == "one two"


def test_what_is_no_plain_file_tells_nothing(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "console.log").symlink_to(tmp_path / "secret")
    assert list(content(tmp_path / "console.log")) == []
    assert list(content(tmp_path / "none")) == []
    assert list(content(tmp_path)) == []
