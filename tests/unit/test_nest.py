"""Where a jailer makes its jail: what is there, what it can do with it, and what is left of it."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from ghrunner_vm import process
from ghrunner_vm.clock import SYSTEM
from ghrunner_vm.vm.cell.command import Nest, in_nest
from ghrunner_vm.vm.cell.main import COMPLAINT
from tests.harness import wait_gone

_SECONDS = 30.0

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root has a jailer")


@pytest.fixture
def output() -> Iterator[int]:
    descriptor = os.memfd_create("output")
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def nest(tmp_path: Path) -> Iterator[Nest]:
    """With a file to read and one to write."""
    (tmp_path / "at").mkdir()
    (tmp_path / "given").write_text("given\n")
    (tmp_path / "taken").touch()
    jail = tmp_path / "at/program/name/root"
    with (tmp_path / "given").open("rb") as given, (tmp_path / "taken").open("r+b") as taken:
        yield Nest(tmp_path / "at", jail, {"base": given.fileno()}, {"scratch": taken.fileno()}, own_network=True)


def said(argv: Sequence[str], nest: Nest, output: int, code: int = 0) -> list[str]:
    """The lines that a program in the nest says."""
    inherit = [*nest.read.values(), *nest.write.values()]
    found = process.exit_code(in_nest(argv, nest), timeout=_SECONDS, inherit=inherit, output=output)
    lines = os.pread(output, 1 << 16, 0).decode().splitlines()
    assert found == code, lines
    return lines


def shell(script: str) -> list[str]:
    return ["sh", "-c", script]


def test_its_files_are_there_and_only_what_may_be_written_can_be(nest: Nest, output: int, tmp_path: Path) -> None:
    script = f"cd {nest.jail}; ls; cat base; echo x 2>/dev/null >base || echo no; echo taken >scratch"
    assert said(shell(script), nest, output) == ["base", "scratch", "given", "no"]
    assert (tmp_path / "taken").read_text() == "taken\n"


def test_others_see_nothing_of_it(nest: Nest, output: int, tmp_path: Path) -> None:
    said(shell(f"touch {nest.jail}/file"), nest, output)
    assert list((tmp_path / "at").iterdir()) == []
    assert str(tmp_path) not in Path("/proc/mounts").read_text()


def test_device_files_can_be_made_and_used_there(nest: Nest, output: int) -> None:
    """For this the file system of a jail must be one that allows it."""
    script = f"cd {nest.jail}; mknod null c 1 3 && echo x >null && echo used"
    assert said(shell(script), nest, output) == ["used"]


def test_it_is_in_namespaces_of_its_own(nest: Nest, output: int) -> None:
    # Its /proc is still the host's, as the jailer needs it to find a network namespace.
    kinds = ("mnt", "net", "ipc", "uts", "user")
    inside = said(shell("; ".join(f"readlink /proc/thread-self/ns/{kind}" for kind in kinds)), nest, output)
    outside = [str(Path(f"/proc/self/ns/{kind}").readlink()) for kind in kinds]
    assert [one != other for one, other in zip(inside, outside, strict=True)] == [True, True, True, True, False]


def test_its_program_is_the_second_process_of_a_pid_namespace(nest: Nest, output: int) -> None:
    assert said(shell("echo $$"), nest, output) == ["2"]


@pytest.mark.parametrize(("script", "code"), [("exit 148", 148), ("kill -SEGV $$", 139)])
def test_how_its_program_ended_is_told(nest: Nest, output: int, script: str, code: int) -> None:
    said(shell(script), nest, output, code)


def test_all_in_it_ends_with_it(nest: Nest, output: int) -> None:
    """Whatever user it has become: that clears a death signal of its own."""
    sleeper = ["setpriv", "--reuid", "1900000000", "--clear-groups", "sleep", "1000"]
    inherit = [*nest.read.values(), *nest.write.values()]
    with process.start(in_nest(sleeper, nest), inherit=inherit, stderr=output) as child:
        found = _awaited(child)
        pidfd = os.pidfd_open(found)
        try:
            child.kill()
            wait_gone(pidfd)
        finally:
            os.close(pidfd)


def test_what_cannot_be_made_is_told(nest: Nest, output: int, tmp_path: Path) -> None:
    (tmp_path / "at").rmdir()
    (line,) = said(["true"], nest, output, 125)
    assert line.startswith(COMPLAINT)


def _awaited(child: process.Child) -> int:
    """The sleeper below it, once it sleeps."""
    deadline = SYSTEM.monotonic() + _SECONDS
    while child.poll() is None and SYSTEM.monotonic() < deadline:
        for pid in process.lowest(child.pid):
            with contextlib.suppress(OSError):  # it has just ended
                if Path(f"/proc/{pid}/comm").read_text() == "sleep\n":
                    return pid
    raise AssertionError("nothing sleeps below it")
