"""Stopping runs from another process: real processes in the place of their ghvm, and their real sockets."""

import asyncio
import contextlib
import itertools
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from subprocess import DEVNULL  # noqa: TID251 a constant: nothing is started with it

import pytest
from click.testing import Result

from ghrunner_vm import config, process, runs
from ghrunner_vm.clock import Clock
from ghrunner_vm.errors import ExitCode, GhvmError, InfrastructureError, UsageError
from ghrunner_vm.ledger import Entry
from ghrunner_vm.lifecycle import stopping
from ghrunner_vm.lifecycle.asking import ask
from ghrunner_vm.lifecycle.control import Request, Status, control_socket
from ghrunner_vm.record import RECORD, ProcessRecord, encode_record
from tests.unit.test_ledger import Host, ghvm, record

SECONDS = 30.0


class Stage:
    """Runs that live until they are told to end, some of which do not listen."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        self.host = Host(directory)
        self.place = config.runtime_directories(config.load({"state_dir": directory}))[0]
        self.asked: list[str] = []
        self._stack = stack

    def run(self, *, answers: bool = True, ends: bool = True) -> tuple[Entry, process.Child]:
        """A live run, and the process in the place of its ghvm."""
        child = self._stack.enter_context(process.start(["sleep", "1000"], stderr=DEVNULL))
        made = record(runs.new_id("stopping"), ProcessRecord.of(pid=child.pid, started=child.started))
        path = self.host.put(made)
        if answers:
            end = child if ends else None
            self._stack.enter_context(served(self.place / f"{made.id}.sock", lambda: self._heard(made.id, end)))
        return next(entry for entry in self.host.ledger.live() if entry.path == path), child

    def _heard(self, run_id: str, child: process.Child | None) -> None:
        self.asked.append(run_id)
        if child is not None:
            child.kill()
            child.join(SECONDS)

    def stop(self, *words: str) -> Result:
        return ghvm(self.host, "stop", *words)


@contextlib.contextmanager
def served(path: Path, heard: Callable[[], None]) -> Iterator[None]:
    """A control socket in a thread, as that of a run is in another process."""
    loop, ready = asyncio.new_event_loop(), threading.Event()
    over = asyncio.Event()

    async def handle(_: Request) -> Mapping[str, object]:
        heard()
        return {"ok": True}

    async def serve() -> None:
        async with control_socket(path, handle):
            ready.set()
            await over.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert ready.wait(SECONDS)
    try:
        yield
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(SECONDS)
        loop.close()


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "r"))
    with contextlib.ExitStack() as stack:
        yield Stage(tmp_path, stack)


def errors(result: Result) -> dict[str, object]:
    """What is said of each run that may still live, from the JSON on stdout."""
    return {one["id"]: one["error"] for one in json.loads(result.stdout)["runs"]}


def test_one_that_cannot_be_asked_does_not_keep_the_others(stage: Stage) -> None:
    deaf, _ = stage.run(answers=False)
    good, _ = stage.run()
    result = stage.stop("--all", "--json")
    assert errors(result) == {deaf.id: f"{deaf.id} has no control socket where it is looked for", good.id: None}
    assert isinstance(result.exception, InfrastructureError)
    assert result.exception.exit_code == ExitCode.INFRASTRUCTURE
    assert result.exception.resolution is not None
    assert "--force" not in result.exception.resolution, "it may be healthy"
    assert stage.asked == [good.id]
    assert (deaf.record.supervisor.alive(), good.record.supervisor.alive()) == (True, False)


def test_a_deadline_is_for_all_and_loses_no_result(stage: Stage) -> None:
    slow, good, slower = (stage.run(ends=ends)[0] for ends in (False, True, False))
    result = stage.stop("--all", "--timeout", "0", "--json")
    late = {one.id: f"{one.id} has not ended in time" for one in (slow, slower)}
    assert errors(result) == {**late, good.id: None}
    assert isinstance(result.exception, InfrastructureError)
    assert result.exception.brief == "2 runs have not ended"
    assert result.exception.details is not None
    assert set(result.exception.details.splitlines()) == set(late.values())
    assert set(stage.asked) == {slow.id, good.id, slower.id}
    text = stage.stop(slow.id, "--timeout", "0")
    assert (text.stdout, str(text.exception)) == ("", late[slow.id])


def test_a_run_that_has_ended_or_is_about_to_need_not_be_asked(stage: Stage) -> None:
    """Its socket goes before its directory, and that before its ghvm."""
    ended, child = stage.run(answers=False)
    child.kill()
    assert child.join(SECONDS) is not None
    ending, _ = stage.run(answers=False)
    moved, _ = stage.run(answers=False)
    (ending.path / RECORD).write_bytes(encode_record(ending.record.model_copy(update={"ended": 7.0})))
    moved.path.rename(stage.host.ledger.runs.parent / "moved")
    for entry in (ended, ending, moved):
        stopping.request(entry, [stage.place], "drain")


def test_nothing_lives(stage: Stage) -> None:
    assert (stage.stop("--all").exit_code, json.loads(stage.stop("--all", "--json").stdout)["runs"]) == (0, [])


def test_one_way_to_stop_at_a_time(stage: Stage) -> None:
    stage.run()
    result = stage.stop("--all", "--now", "--force")
    assert isinstance(result.exception, UsageError)
    assert stage.asked == []


def test_an_unset_variable_names_no_run(stage: Stage) -> None:
    entry, _ = stage.run()
    assert isinstance(stage.stop("--force", "").exception, UsageError)
    assert entry.record.supervisor.alive()


def test_force_ends_those_that_cannot_be_asked(stage: Stage) -> None:
    deaf, _ = stage.run(answers=False)
    good, _ = stage.run()
    result = stage.stop("--all", "--force")
    assert result.exit_code == 0
    assert set(result.stdout.splitlines()) == {f"{one.id}: killed" for one in (deaf, good)}


def test_force_ends_those_that_do_not_end_by_themselves(stage: Stage) -> None:
    hanging, child = stage.run(ends=False)
    stopping.request(hanging, [stage.place], "force")
    assert hanging.record.supervisor.alive()
    hours = itertools.count(step=3600)
    stopping.kill_late([hanging], Clock(monotonic=lambda: float(next(hours))))
    assert child.join(SECONDS) is not None


def test_a_socket_is_found_in_any_of_its_places(tmp_path: Path) -> None:
    with served(tmp_path / "cron/demo-0001.sock", lambda: None):
        assert ask([tmp_path / "login", tmp_path / "cron"], "demo-0001", Status(do="status")) == {"ok": True}


def test_only_one_that_is_silent_is_to_be_ended_by_force(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "demo-0001.sock"))
        listening.listen()
        with pytest.raises(GhvmError, match="demo-0001 does not answer") as silent:
            ask([tmp_path], "demo-0001", Status(do="status"), seconds=0.01)
    assert "--force" in str(silent.value.resolution)
    with pytest.raises(GhvmError, match="has no control socket") as missing:
        ask([tmp_path / "a", tmp_path / "b"], "demo-0001", Status(do="status"))
    assert missing.value.details == f"{tmp_path / 'a'}, {tmp_path / 'b'}"
    assert "--force" not in str(missing.value.resolution)
