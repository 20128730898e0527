"""Real programs, started and ended."""

import asyncio
import os
import signal
import sys
from pathlib import Path
from subprocess import DEVNULL  # noqa: TID251 a constant: nothing is started with it

import pytest

from ghrunner_vm import process
from ghrunner_vm.errors import ExitCode, InfrastructureError


def test_the_output_of_a_program() -> None:
    assert process.run(["sh", "-c", "echo out; echo err >&2"], timeout=30) == "out\n"


def test_a_program_that_fails_tells_all_it_said() -> None:
    with pytest.raises(process.CommandFailed) as caught:
        process.run(["sh", "-c", "echo out; echo err >&2; exit 3"], timeout=30)
    assert caught.value.code == 3
    assert caught.value.exit_code is ExitCode.INFRASTRUCTURE
    assert "out" in str(caught.value.details)
    assert "err" in str(caught.value.details)


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(process.CommandMissing, match="no-such-program is not installed"):
        process.run(["no-such-program"], timeout=30)
    with pytest.raises(process.CommandMissing), process.start(["no-such-program"], stderr=DEVNULL):
        pass


def test_a_program_that_does_not_end_is_ended(tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError, match="did not end within 0 s"):
        process.run(["sh", "-c", f"echo $$ >{tmp_path}/pid; exec sleep 1000"], timeout=0.3)
    written = tmp_path / "pid"
    assert not written.exists() or process.start_time(int(written.read_text())) is None


def test_no_token_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GHVM_GITHUB_TOKEN", "secret")
    monkeypatch.setenv("LD_PRELOAD", "")
    names = {line.partition("=")[0] for line in process.run(["env"], timeout=30, env={"LC_ALL": "C"}).splitlines()}
    assert "LC_ALL" in names
    assert names <= {"PATH", "HOME", "LANG", "TMPDIR", "XDG_RUNTIME_DIR", "LC_ALL"}


def test_only_the_listed_descriptors_are_inherited(tmp_path: Path) -> None:
    read, write = os.pipe()
    log = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    os.set_inheritable(read, True)
    try:
        with process.start(["ls", "/proc/self/fd"], inherit=[write], stderr=log) as child:
            assert asyncio.run(child.wait()) == 0
    finally:
        for descriptor in (read, write, log):
            os.close(descriptor)
    listed = {int(number) for number in (tmp_path / "log").read_text().split()}
    others = listed - {0, 1, 2, write}
    assert write in listed
    assert len(others) == 1, "ls itself has the directory open, and nothing else"


@pytest.mark.parametrize(("script", "code"), [("exit 7", 7), ("kill -9 $$", -9)])
def test_how_a_child_ended(script: str, code: int) -> None:
    with process.start(["sh", "-c", script], stderr=DEVNULL) as child:
        assert asyncio.run(child.wait()) == code
        assert asyncio.run(child.wait()) == code
        assert child.poll() == code
        child.kill()


def test_a_child_lives_in_a_session_of_its_own_and_ends_with_the_block() -> None:
    with process.start(["sleep", "1000"], stderr=DEVNULL) as child:
        assert os.getsid(child.pid) == child.pid
        assert process.start_time(child.pid) == child.started > 0
        assert child.poll() is None
    assert process.start_time(child.pid) != child.started


def test_a_kill_is_told() -> None:
    with process.start(["sleep", "1000"], stderr=DEVNULL) as child:
        child.kill()
        assert asyncio.run(child.wait()) == -signal.SIGKILL


def test_the_exit_code_of_a_program_that_may_fail() -> None:
    assert process.exit_code(["sh", "-c", "exit 9"], timeout=30) == 9
    assert process.exit_code(["sleep", "1000"], timeout=0.01) is None


def test_the_start_of_a_process_with_an_odd_name(tmp_path: Path) -> None:
    odd = tmp_path / "a) R 1 (b"
    odd.symlink_to(sys.executable)
    with process.start([str(odd), "-c", "input()"], stderr=DEVNULL) as child:
        assert child.started > 0
    assert process.start_time(1 << 30) is None
