"""Real programs that are read while they run."""

import io
import os
import signal
import tarfile
from pathlib import Path

import pytest

from ghrunner_vm import process
from ghrunner_vm.errors import InfrastructureError
from ghrunner_vm.process import output


def _script(text: str) -> list[str]:
    return ["sh", "-c", text]


def test_lines_are_told_as_they_come(tmp_path: Path) -> None:
    """The second line is written only once the first one has been told."""
    told: list[str] = []

    def tell(line: str) -> None:
        told.append(line)
        (tmp_path / "heard").touch()

    waiting = f"echo one; until [ -e {tmp_path}/heard ]; do :; done; echo two >&2"
    output.narrated(_script(waiting), timeout=30, tell=tell)
    assert told == ["one", "two"]


def test_progress_bars_and_overlong_lines_are_cut_to_pieces() -> None:
    told: list[str] = []
    output.narrated(
        _script(r"printf '10 %%\r20 %%\r\n\n'; head -c 20000 /dev/zero | tr '\0' x"), timeout=30, tell=told.append
    )
    assert told[:2] == ["10 %", "20 %"]
    assert "".join(told[2:]) == "x" * 20000
    assert max(map(len, told)) <= 8 << 10


def test_a_failure_has_the_last_lines() -> None:
    with pytest.raises(process.CommandFailed) as caught:
        output.narrated(_script("seq 100; exit 3"), timeout=30, tell=lambda _: None)
    assert caught.value.code == 3
    assert caught.value.output.splitlines() == [str(number) for number in range(81, 101)]


def test_what_stays_in_the_background_is_not_waited_for() -> None:
    told: list[str] = []
    output.narrated(_script("sleep 60 & echo $!"), timeout=30, tell=told.append)
    left = int(told[0])
    assert process.start_time(left) is not None
    os.kill(left, signal.SIGKILL)


def test_a_program_that_goes_on_for_too_long_may_tidy_up(tmp_path: Path) -> None:
    slow = f"trap 'touch {tmp_path}/tidy; exit' TERM; echo $$; while :; do sleep 0.1; done"
    told: list[str] = []
    with pytest.raises(InfrastructureError, match="sh did not go on in time"):
        output.narrated(_script(slow), timeout=1, tell=told.append)
    assert (tmp_path / "tidy").exists()
    assert process.start_time(int(told[0])) is None


def test_a_program_that_tidies_up_only_after_failures(tmp_path: Path) -> None:
    """Each command that it waits for is killed, until it goes the way that it goes when they fail."""
    fragile = f"echo ready; sleep 1000; sleep 1001; sh -c 'sleep 1002; false' || touch {tmp_path}/tidy"
    with pytest.raises(KeyboardInterrupt), output.interruptible():
        output.narrated(
            _script(fragile), timeout=30, tell=lambda _: os.kill(os.getpid(), signal.SIGTERM), from_below=True
        )
    assert (tmp_path / "tidy").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signals_end_a_block_in_order(tmp_path: Path, number: signal.Signals) -> None:
    slow = f"trap 'touch {tmp_path}/tidy; exit' TERM; echo ready; while :; do sleep 0.1; done"
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), output.interruptible():
        output.narrated(_script(slow), timeout=30, tell=lambda _: os.kill(os.getpid(), number))
    assert (tmp_path / "tidy").exists()
    assert signal.getsignal(number) == before


def test_a_stream_is_whole() -> None:
    with output.streamed(["head", "-c", "3000000", "/dev/zero"], patience=30) as stream:
        assert len(stream.read()) == 3_000_000


def test_a_stream_that_ends_early_is_an_error() -> None:
    """Whoever reads it hears so before anything is made of it."""
    failing = _script("echo part; echo broken disk >&2; exit 2")
    read: list[bytes] = []
    with pytest.raises(process.CommandFailed) as caught, output.streamed(failing, patience=30) as stream:
        read.append(stream.read())
    assert read == []
    assert caught.value.code == 2
    assert caught.value.output == "broken disk\n"


def test_a_failure_that_the_reader_does_not_see() -> None:
    failing = _script("echo part; exit 2")
    with pytest.raises(process.CommandFailed), output.streamed(failing, patience=30) as stream:
        assert stream.read(4) == b"part"


def test_why_a_stream_ended_is_told_rather_than_that_it_ended(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "whole", "w") as archive:
        archive.addfile(tarfile.TarInfo("file"), io.BytesIO())
    with (
        pytest.raises(process.CommandFailed, match="exit code 1"),
        output.streamed(_script(f"head -c 300 {tmp_path}/whole; exit 1"), patience=30) as stream,
        tarfile.open(fileobj=stream, mode="r|"),
    ):
        pass


def test_an_error_of_the_reader_is_its_own() -> None:
    with pytest.raises(UnicodeDecodeError), output.streamed(["cat", "/dev/urandom"], patience=30) as stream:
        stream.read(1000).decode()


def test_what_the_reader_leaves_is_read_to_its_end() -> None:
    """Else the program would complain of a broken pipe."""
    with output.streamed(["head", "-c", "3000000", "/dev/zero"], patience=30) as stream:
        stream.read(10)


def test_a_silent_stream_is_not_waited_for() -> None:
    with (
        pytest.raises(InfrastructureError, match="sleep did not go on in time"),
        output.streamed(["sleep", "1000"], patience=0.1) as stream,
    ):
        stream.read(1)


def test_what_is_not_there() -> None:
    with pytest.raises(process.CommandMissing):
        output.narrated(["no-such-program"], timeout=30, tell=lambda _: None)
    with pytest.raises(process.CommandMissing), output.streamed(["no-such-program"], patience=30):
        pass
