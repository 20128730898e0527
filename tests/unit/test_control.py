"""The control socket of a run, spoken to over a real socket."""

import asyncio
import errno
import json
import stat
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import pytest

from ghrunner_vm.lifecycle.control import Request, Status, Stop, control_socket

SECONDS = 30


class Run:
    """Notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[Request] = []

    async def handle(self, request: Request) -> Mapping[str, object]:
        self.asked.append(request)
        return {"ok": len(self.asked)}


Work = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def talk(path: Path, run: Run, work: Work) -> None:
    async def both() -> None:
        async with asyncio.timeout(SECONDS), control_socket(path, run.handle):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                await work(reader, writer)
            finally:
                writer.close()
                await writer.wait_closed()

    asyncio.run(both())


def ask(path: Path, run: Run, *lines: bytes) -> list[object]:
    answers: list[object] = []

    async def work(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for line in lines:
            writer.write(line + b"\n")
            answers.append(json.loads(await reader.readline()))

    talk(path, run, work)
    return answers


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sockets/demo-0001.sock"


def test_requests_and_answers(path: Path) -> None:
    run = Run()
    answers = ask(path, run, b'{"do":"status"}', b'{"do":"stop"}', b'{"do":"stop","how":"now"}')
    assert answers == [{"ok": 1}, {"ok": 2}, {"ok": 3}]
    assert run.asked == [Status(do="status"), Stop(do="stop"), Stop(do="stop", how="now")]


@pytest.mark.parametrize(
    "line", [b"", b"stop", b"{}", b"[]", b'{"do":"assign"}', b'{"do":"stop","how":1}', b'{"do":"stop","x":1}', b"\xff"]
)
def test_what_is_no_request_is_refused_and_the_talk_goes_on(path: Path, line: bytes) -> None:
    run = Run()
    refused, answered = ask(path, run, line, b'{"do":"status"}')
    assert isinstance(refused, dict)
    assert refused["error"] == "unknown request"
    assert answered == {"ok": 1}


def test_what_the_host_refuses_is_an_answer(path: Path) -> None:
    class FullDisk(Run):
        async def handle(self, request: Request) -> Mapping[str, object]:
            del request
            raise OSError(errno.ENOSPC, "No space left on device", "/somewhere")

    (refused,) = ask(path, FullDisk(), b'{"do":"ssh"}')
    assert isinstance(refused, dict)
    assert refused["error"] == "the disk is full (/somewhere)"


def test_a_line_without_end_ends_the_talk(path: Path) -> None:
    async def work(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"x" * 100_000)
        assert await reader.read() == b""

    talk(path, Run(), work)


def test_it_is_for_its_user_only_and_gone_at_the_end(path: Path) -> None:
    async def work(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del reader, writer
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700

    path.parent.mkdir(mode=0o700)
    path.touch()  # left by a run that was killed
    talk(path, Run(), work)
    assert not path.exists()


def test_a_talk_that_goes_on_does_not_outlive_the_run(path: Path) -> None:
    noises: list[object] = []

    async def work() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: noises.append(context))
        async with asyncio.timeout(SECONDS):
            async with control_socket(path, Run().handle):
                reader, writer = await asyncio.open_unix_connection(path)
                writer.write(b'{"do":"status"}\n')
                assert await reader.readline()
            assert await reader.read() == b""
            assert asyncio.all_tasks() == {asyncio.current_task()}
            writer.close()
            await writer.wait_closed()

    asyncio.run(work())
    assert noises == []
