"""What `ghvm logs` makes of the bytes of a guest: lines, prompts, and lines that never end."""

from pathlib import Path

import pytest

from ghrunner_vm import runs
from ghrunner_vm.commands.logs import _events, pieces
from tests.unit.test_ledger import GONE, Host, ghvm, record


@pytest.mark.parametrize(
    ("blocks", "shown"),
    [
        ([b"one\ntw", b"o\n"], ["one\n", "two\n"]),
        ([b"one\ntwo"], ["one\n", "two\n"]),
        ([b"\x1b[31mred\x1b[0m\r\n\n"], ["red\n", "\n"]),
        ([b"caf\xc3", b"\xa9\n"], ["café\n"]),
        ([b"\nlogin: ", b"", b"", b"root\n"], ["\n", "login: ", "root\n"]),
        ([b"login: ", b""], ["login: ", "\n"]),
        ([b"", b""], []),
    ],
)
def test_lines_and_prompts(blocks: list[bytes], shown: list[str]) -> None:
    assert list(pieces(iter(blocks))) == shown


def test_a_line_without_end_is_not_waited_for() -> None:
    block = b"x" * (64 << 10)
    seen = []
    for piece in pieces(iter([block] * 20)):
        assert len(piece) <= 2 * len(block) + 1
        seen.append(piece)
    assert "".join(seen) == "x" * len(block) * 20 + "\n"


def test_the_console_is_printed_as_it_is(tmp_path: Path) -> None:
    host = Host(tmp_path)
    path = host.put(record("demo-0001", GONE))
    (path / runs.CONSOLE).write_bytes(b"booted\r\n\r\nlogin: ")
    assert ghvm(host, "logs").stdout == "booted\n\nlogin: \n"


def test_events_are_whole_lines(tmp_path: Path) -> None:
    host = Host(tmp_path)
    path = host.put(record("demo-0001", GONE))
    (path / runs.EVENTS).write_text('{"time": 3.0, "event": "Launched"}\n{"time": 4.0, "ev')
    assert ghvm(host, "logs", "--events", "--json").stdout == '{"time": 3.0, "event": "Launched"}\n'
    assert ghvm(host, "logs", "--events").stdout.endswith("+2.0 s               Launched\n")
    (entry,) = host.ledger.over()
    halves = [b'{"time": 3.0, "ev', b"", b'ent": "Launched"}\n']
    assert list(_events(iter(halves), entry, as_json=True)) == ['{"time": 3.0, "event": "Launched"}\n']
