"""What a program in a cell sees, has and may do; and what is seen of it from outside."""

import os
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from ghrunner_vm import process
from ghrunner_vm.errors import PermanentError
from ghrunner_vm.vm.cell import landlock
from ghrunner_vm.vm.cell.command import RESOLVER, Cell, in_cell
from ghrunner_vm.vm.cell.main import COMPLAINT
from ghrunner_vm.vm.qemu.complaints import not_started, unconfined
from ghrunner_vm.vm.qemu.probe import PROBES

_SECONDS = 30.0
_SYSTEM = "/usr/bin/true"
_NO_NAMESPACES = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", "--")


def _landlock() -> int:
    try:
        return landlock.version()
    except OSError:
        return 0


without_namespaces = pytest.mark.skipif(
    os.geteuid() != 0 or not _landlock(),
    reason="root without CAP_SYS_ADMIN, as in a container, and Landlock are needed",
)


@pytest.fixture
def output() -> Iterator[int]:
    descriptor = os.memfd_create("output")
    yield descriptor
    os.close(descriptor)


def _said(argv: Sequence[str], output: int, inherit: Sequence[int] = ()) -> str:
    assert process.exit_code(argv, timeout=_SECONDS, inherit=inherit, output=output) == 0, _read(output)
    return _read(output)


def _read(descriptor: int) -> str:
    return os.pread(descriptor, 1 << 16, 0).decode()


def _inside(script: str, output: int, cell: Cell | None = None, inherit: Sequence[int] = ()) -> list[str]:
    """The lines that a shell in a cell says."""
    said = _said(in_cell(["sh", "-c", script], cell or Cell(), _SYSTEM), output, inherit)
    if said.startswith("no namespaces"):
        pytest.skip("this host forbids namespaces")
    return said.splitlines()


def _words(program: str = _SYSTEM, cell: Cell | None = None) -> list[str]:
    """What the program of the cell is told, besides whose child it is."""
    argv = in_cell(["setpriv", "--", program], cell or Cell(), program)
    assert argv[6] == f"parent={os.getpid()}"
    return argv[7 : argv.index("--")]


def test_the_command_starts_python_alone() -> None:
    argv = in_cell(["setpriv", "--", "qemu"], Cell(), _SYSTEM)
    assert argv[:4] == [sys.executable, "-I", "-S", "-c"]
    assert argv[-4:] == ["--", "setpriv", "--", "qemu"]


def test_the_words_of_a_cell() -> None:
    cell = Cell(["/dev/full", "/dev/no-such-device"], limits={"NOFILE": 100})
    devices = [f"device=/dev/{name}" for name in ("null", "zero", "urandom", "full")]
    assert _words(cell=cell) == [*devices, "network=own", "NOFILE=100"]


def test_with_the_hosts_network_the_name_servers_are_seen() -> None:
    words = _words(cell=Cell(own_network=False))
    assert f"see={RESOLVER}" in words
    assert "network=own" not in words


def test_a_qemu_of_ones_own_is_seen_with_its_firmware_and_no_more(tmp_path: Path) -> None:
    for directory in ("bin", "lib", "share/qemu", "share/keyrings", "etc"):
        (tmp_path / "real" / directory).mkdir(parents=True)
    (tmp_path / "real/bin/qemu").write_text("")
    (tmp_path / "qemu").symlink_to(tmp_path / "real/bin/qemu")
    seen = [word.removeprefix("see=") for word in _words(str(tmp_path / "qemu")) if word.startswith("see=")]
    assert seen == [str(tmp_path), *(f"{tmp_path}/real/{name}" for name in ("bin", "lib", "share/qemu"))]


def test_it_sees_the_system_and_nothing_else_of_the_host(output: int) -> None:
    lines = _inside("ls -A /; ls -A /dev; ls -A /etc", output)
    system = {"bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr"}
    assert set(lines) - system == {"dev", "etc", "proc", "null", "zero", "urandom", "ld.so.cache", "alternatives"}


def test_a_services_umask_closes_nothing_in_it(output: int) -> None:
    """QEMU's own user must get to its devices."""
    before = os.umask(0o077)
    try:
        modes = _inside("stat -c %a / /dev /etc /proc", output)
    finally:
        os.umask(before)
    assert modes == ["755"] * 4


def test_it_sees_no_other_process(output: int) -> None:
    own, *seen = _inside("echo $$; ls -A /proc", output)
    assert sorted(seen) == sorted([own, "self"])


def test_it_can_write_nowhere(output: int) -> None:
    script = "for place in / /usr /etc /dev /proc; do touch $place/x 2>/dev/null && echo $place; done; echo end"
    assert _inside(script, output) == ["end"]


def test_its_network_is_empty(output: int) -> None:
    lines = _inside("tail -n +3 /proc/self/net/dev", output)
    assert [line.split(":")[0].strip() for line in lines] == ["lo"]


def test_the_hosts_network_on_demand(output: int) -> None:
    ours = os.readlink("/proc/self/ns/net")  # noqa: PTH115 a name, not a path
    assert _inside("readlink /proc/self/ns/net", output, Cell(own_network=False)) == [ours]


def test_it_is_not_root_unless_we_are(output: int) -> None:
    assert _inside("id -u; id -g", output) == [str(os.geteuid()), str(os.getegid())]


def test_limits_hold_and_ignored_signals_do_not(output: int) -> None:
    cell = Cell(limits={"NOFILE": 100, "CORE": 0, "FSIZE": 1 << 60})
    lines = _inside("ulimit -n; ulimit -c; grep SigIgn /proc/self/status", output, cell)
    assert lines[:2] == ["100", "0"]
    # 32 and up are the C library's own, which no program can change.
    assert int(lines[2].split()[1], 16) & 0x7FFFFFFF == 0


def test_a_limit_of_ours_that_is_lower_stays(output: int) -> None:
    argv = ["prlimit", "--nofile=50:50", "--", *in_cell(["sh", "-c", "ulimit -n"], Cell(limits={"NOFILE": 90}), "sh")]
    assert _said(argv, output).splitlines()[-1] == "50"


def test_a_file_that_it_does_not_see_is_opened_by_its_descriptor(output: int, tmp_path: Path) -> None:
    file = tmp_path / "kernel"
    file.write_text("image\n")
    with file.open() as opened:
        number = opened.fileno()
        script = f"cat /proc/self/fd/{number}; test -e {file} || echo unseen"
        assert _inside(script, output, inherit=[number]) == ["image", "unseen"]


def test_the_mounts_of_the_host_stay_as_they_are(output: int) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    _inside("true", output)
    assert Path("/proc/self/mountinfo").read_text() == before


def test_a_program_that_is_not_there_is_named(output: int) -> None:
    assert process.exit_code(in_cell(["no-such-program"], Cell(), _SYSTEM), timeout=_SECONDS, output=output) == 125
    assert _read(output).splitlines()[-1] == "no-such-program: No such file or directory"


def test_it_stays_our_child_with_the_id_that_it_had(output: int) -> None:
    with process.start(in_cell(["sh", "-c", "echo $$ $PPID"], Cell(), _SYSTEM), stderr=output) as child:
        assert child.join(_SECONDS) == 0
        assert _read(output).splitlines()[-1] == f"{child.pid} {os.getpid()}"


def test_whose_parent_is_gone_before_it_begins_does_not_begin(output: int) -> None:
    # A shell stands for the process that is there instead: init, or a subreaper.
    argv = ["sh", "-c", '"$@"; echo ended with $?', "sh", *in_cell(["echo", "begun"], Cell(), _SYSTEM)]
    assert _said(argv, output).splitlines() == ["the run has ended already", "ended with 125"]


def _fenced(argv: Sequence[str]) -> list[str]:
    return [*_NO_NAMESPACES, *in_cell(argv, Cell(), argv[0])]


@without_namespaces
def test_where_namespaces_are_forbidden_landlock_hides_the_files(output: int, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    script = f"ls /usr >/dev/null && cat /dev/null && echo seen; cat {tmp_path}/secret /etc/hostname; ls / /tmp; true"
    lines = _said(_fenced(["sh", "-c", script]), output).splitlines()
    assert "Landlock" in lines[0]
    assert lines[1] == "seen"
    assert len([line for line in lines[2:] if "Permission denied" in line]) == len(lines[2:]) == 4


@without_namespaces
def test_landlock_lets_inherited_files_be_opened(output: int, tmp_path: Path) -> None:
    memory = os.memfd_create("memory")
    os.write(memory, b"memory\n")
    (tmp_path / "kernel").write_text("image\n")
    with (tmp_path / "kernel").open() as opened:
        names = [f"/proc/self/fd/{number}" for number in (memory, opened.fileno())]
        lines = _said(_fenced(["cat", *names]), output, [memory, opened.fileno()]).splitlines()
    os.close(memory)
    assert lines[1:] == ["memory", "image"]


@without_namespaces
@pytest.mark.skipif(_landlock() < 4, reason="this kernel's Landlock does not know TCP")
def test_landlock_lets_it_make_no_connection(output: int) -> None:
    script = "import socket; socket.create_connection(('127.0.0.1', 1))"
    program = "/usr/bin/python3"
    assert process.exit_code(_fenced([program, "-c", script]), timeout=_SECONDS, output=output) == 1
    assert "PermissionError" in _read(output)


@without_namespaces
def test_qemu_runs_a_guest_behind_landlock_alone(output: int) -> None:
    probe = PROBES["x86_64"]
    bios = os.memfd_create("bios")
    os.write(bios, probe.rom)
    machine = ("-nodefaults", "-display", "none", "-accel", "tcg", "-cpu", "max", "-m", "16M")
    argv = ["qemu-system-x86_64", *machine, "-bios", f"/proc/self/fd/{bios}", *probe.options]
    code = process.exit_code(_fenced(argv), timeout=_SECONDS, inherit=[bios], output=output)
    os.close(bios)
    assert code == probe.exit_code, _read(output)


def test_a_host_that_allows_nothing_is_told_what_to_do() -> None:
    words = f"some noise\n{COMPLAINT}namespaces: Operation not permitted; Landlock: Function not implemented\n"
    for error in (unconfined(words), not_started(words, 125)):
        assert isinstance(error, PermanentError)
        assert error.details == "namespaces: Operation not permitted; Landlock: Function not implemented"
        assert "Landlock (5.13" in str(error.resolution)


def test_other_words_are_no_such_complaint() -> None:
    assert unconfined("no namespaces of its own (Operation not permitted), Landlock 7 instead\n") is None


def test_devices_in_a_cell_work_and_nothing_there_is_a_device_besides(output: int) -> None:
    lines = _inside("head -c 3 /dev/zero | wc -c; head -c 3 /dev/urandom | wc -c; stat -c %F /dev/null", output)
    assert lines == ["3", "3", "character special file"]
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
