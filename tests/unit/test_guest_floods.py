"""A guest that never stops: its host's memory, files and narration stay bounded, and its run is heard of."""

import asyncio
import json
import socket
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ghrunner_vm import runs
from ghrunner_vm.console import Console
from ghrunner_vm.guest.channel import Limits
from ghrunner_vm.guest.messages import LINE_LIMIT, GuestMessage, Log, Refused
from ghrunner_vm.lifecycle.sources import from_guest, read_console
from ghrunner_vm.lifecycle.state import State
from ghrunner_vm.lifecycle.teller import Teller
from ghrunner_vm.record import ProcessRecord, RunRecord
from ghrunner_vm.ring import Ring, tail
from tests.unit.test_sources import Machine

SECONDS = 60
MEBIBYTE = 1 << 20
RING = 1 << 20


def record() -> RunRecord:
    supervisor = ProcessRecord.of(pid=2, started=0)
    return RunRecord.of(id="run-1", boot_id="b", supervisor=supervisor, label="l", image="i", since=0.0, created=0.0)


def test_a_flood_of_console_costs_neither_memory_nor_disk(tmp_path: Path) -> None:
    piece, pieces = b"\x1b[2Jgarbage\xff\n" * (MEBIBYTE // 13), 200
    path = tmp_path / "console.log"

    async def read(ours: socket.socket, ring: Ring) -> None:
        await asyncio.wait_for(read_console(Machine(ours), ring.write, asyncio.Event()), SECONDS)

    def print_all(guests: socket.socket) -> None:
        with guests:
            for _ in range(pieces):
                guests.sendall(piece)

    ours, guests = socket.socketpair()
    ours.setblocking(False)
    with ours, ThreadPoolExecutor(1) as pool, Ring(path, RING) as ring:
        tracemalloc.start()
        printing = pool.submit(print_all, guests)
        asyncio.run(read(ours, ring))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        printing.result(SECONDS)
        assert ring.total == pieces * len(piece)
    assert peak < 2 * MEBIBYTE
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 2 * RING
    assert tail(path, 100) == (piece * 2)[-100:]


def test_a_console_that_never_pauses_does_not_keep_the_loop_to_itself() -> None:
    """The guest prints in the same loop that reads it: it can go on only if the reader gives way."""
    turns = 0

    async def work() -> None:
        ours, guests = socket.socketpair()
        with ours, guests:
            ours.setblocking(False)
            guests.setblocking(False)

            async def others() -> None:
                nonlocal turns
                while turns < 100:
                    turns += 1
                    await asyncio.sleep(0)
                guests.shutdown(socket.SHUT_WR)

            def print_more(_: bytes) -> None:
                if turns < 100:
                    guests.send(b"more")

            guests.send(b"begin")
            await asyncio.gather(others(), read_console(Machine(ours), print_more, asyncio.Event()))

    worker = threading.Thread(target=lambda: asyncio.run(work()), daemon=True)
    worker.start()
    worker.join(SECONDS)
    assert not worker.is_alive(), "the loop never came to anything but the console"
    assert turns == 100


def test_the_longest_messages_that_a_guest_may_send_do_not_fill_the_events(tmp_path: Path) -> None:
    """Else it could hide from them what its host does later."""
    limits = Limits()
    refusal = json.dumps({"type": "refused", "why": "\N{REPLACEMENT CHARACTER}" * 1024}).encode()
    message = Refused(type="refused", why="\N{REPLACEMENT CHARACTER}" * 1024)
    with runs.create(tmp_path, record()) as run:
        teller = Teller("run-1", lambda *_, **__: None)
        teller.run = run
        while limits.admit(refusal, message) is None:
            event = from_guest(message)
            assert event is not None
            teller.observe(State(), event, State())
        run.log("last")
        assert '"event": "last"' in (run.path / runs.EVENTS).read_text().splitlines()[-1]


def test_a_flood_of_words_hides_nothing_that_ghvm_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stalled:
        """A reader that takes nothing until it is let go."""

        def __init__(self) -> None:
            self.go = threading.Event()
            self.text = ""

        def isatty(self) -> bool:
            return False

        def write(self, text: str) -> None:
            self.go.wait(SECONDS)
            self.text += text

        def flush(self) -> None:
            pass

    reader = Stalled()
    monkeypatch.setattr("sys.stderr", reader)
    console = Console()
    with console.from_a_thread():
        for _ in range(5000):
            console.echo("flood")
        console.say("powering off")
        reader.go.set()
    assert reader.text.endswith("powering off\n")
    assert reader.text.count("flood") < 600


def test_an_endless_word_is_passed_on_in_part() -> None:
    told: dict[str, str] = {}

    def tell(step: str, words: str, **_: object) -> None:
        told[step] = words

    message: GuestMessage = Log(type="log", stream="runner", text="\N{PARTY POPPER}" * (LINE_LIMIT // 4))
    Teller("run-1", tell).heard(message)
    assert len(told["guest-log"]) < 5000
    assert told["guest-log"].endswith("…")
