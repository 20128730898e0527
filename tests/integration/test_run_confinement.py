"""What a running machine may do and may see, as /proc tells it."""

import base64
import contextlib
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from ghrunner_vm.errors import ExitCode
from tests import guests
from tests.harness import children, proc, wait_gone
from tests.lab import Lab

_OWN_FILES = {"/dev/null", "/dev/urandom", "overlay.qcow2", "lock", "lease"}
_IMAGE_FILES = {f"{guests.TINY}.{suffix}" for suffix in ("qcow2", "vmlinuz", "initrd")}

_NETWORK_CARD = "/dev/net/tun"
"""There unless QEMU makes the guest's connections itself, which takes namespaces that are forbidden."""
_SYSTEM = {"bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr"}
"""What a Linux system has of programs and libraries, as links or directories."""

_JIT_BEGINS = base64.b64encode(b'{".runner').decode()
"""How every JIT config begins."""


def _status(pid: int) -> dict[str, str]:
    lines = (line.partition(":") for line in proc(pid, "status").decode().splitlines())
    return {key: value.strip() for key, _, value in lines}


def _descriptors(pid: int) -> list[str]:
    return [str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()]


def _unix_sockets(pid: int) -> list[str]:
    """The Unix sockets among a process's descriptors, by inode; ghvm made them in its own network namespace."""
    unix = {line.split()[6] for line in proc(os.getpid(), "net/unix").decode().splitlines()[1:]}
    return [inode for text in _descriptors(pid) for inode in re.findall(r"socket:\[(\d+)\]", text) if inode in unix]


def test_qemu_has_no_privileges_and_only_the_descriptors_it_needs(lab: Lab) -> None:
    with lab.run() as run:
        run.wait("idle")
        (qemu,) = lab.machines
        status, held, sockets = _status(qemu), _descriptors(qemu), _unix_sockets(qemu)
        run.send(signal.SIGTERM)
        assert run.wait_exit() == ExitCode.OK
    assert "0" not in status["Uid"].split() + status["Gid"].split()
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert {int(status[key], 16) for key in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}
    if os.geteuid() == 0:  # an ordinary user's ghvm has no groups, and no bounding set without namespaces, to give up
        assert (status["Groups"], int(status["CapBnd"], 16)) == ("", 0)
    files = [text for text in held if not text.startswith(("anon_inode:", "socket:"))]
    names = {text if text.startswith("/dev/") else Path(text).name for text in files}
    assert names - {status["Uid"].split()[0], _NETWORK_CARD} == _OWN_FILES | _IMAGE_FILES
    assert len(set(sockets)) == len(("monitor", "agent", "console", "messages"))


def _names(directory: Path) -> set[str]:
    return {entry.name for entry in directory.iterdir()}


def _mounts(pid: int) -> dict[str, tuple[str, str]]:
    """The kind and the options of each mount that a process sees (proc_pid_mountinfo(5))."""
    split = (line.split() for line in proc(pid, "mountinfo").decode().splitlines())
    return {words[4]: (words[words.index("-") + 1], words[5]) for words in split}


@contextlib.contextmanager
def _pidfd(pid: int) -> Iterator[int]:
    pidfd = os.pidfd_open(pid)
    try:
        yield pidfd
    finally:
        os.close(pidfd)


def _same_namespace(pid: int, name: str) -> bool:
    return Path(f"/proc/{pid}/ns/{name}").readlink() == Path(f"/proc/self/ns/{name}").readlink()


def _walled_in(pid: int) -> bool:
    """Whether this host allows namespaces; elsewhere Landlock keeps QEMU in, of which /proc tells nothing."""
    return not _same_namespace(pid, "mnt")


def test_qemu_sees_nothing_of_the_host_but_its_programs(lab: Lab) -> None:
    with lab.run() as run:
        run.wait("idle")
        (qemu,) = lab.machines
        if not _walled_in(qemu):
            pytest.skip("this host forbids namespaces")
        root, mounts = Path(f"/proc/{qemu}/root"), _mounts(qemu)
        top, devices, processes = (_names(root / name) for name in ("", "dev", "proc"))
        apart = ("mnt", "ipc", "uts", *(("net",) if _NETWORK_CARD in _descriptors(qemu) else ()))
        shared = [name for name in apart if _same_namespace(qemu, name)]
        interfaces = [line.split(":")[0].strip() for line in proc(qemu, "net/dev").decode().splitlines()[2:]]
        run.send(signal.SIGTERM)
        assert run.wait_exit() == ExitCode.OK
    assert top - _SYSTEM == {"dev", "etc", "proc"}
    assert devices == {"null", "zero", "urandom"}
    assert processes == {"self", str(qemu)}
    assert shared == []
    assert interfaces == ["lo"] or "net" not in apart
    assert {place for place in mounts if place.count("/") == 1 and place != "/"} <= {f"/{name}" for name in _SYSTEM}
    writable = {place for place, (_, options) in mounts.items() if "ro" not in options.split(",")}
    assert writable == {f"/dev/{name}" for name in devices}


def test_a_killed_run_leaves_neither_a_machine_nor_a_mount(lab: Lab) -> None:
    before = _mounts(os.getpid())
    with lab.run() as run:
        run.wait("idle")
        (qemu,) = lab.machines
        with _pidfd(qemu) as machine:
            run.send(signal.SIGKILL)
            wait_gone(machine)
        run.wait_exit()
    assert lab.machines == []
    assert _mounts(os.getpid()) == before
    lab.let_go_and_collect()


def test_no_secret_is_in_an_argument_or_in_the_environment_of_a_child(lab: Lab) -> None:
    token = lab.sim.personal_token
    with lab.gate() as gate, lab.run(env={"GHVM_GITHUB_TOKEN": token}) as run:
        lab.job(gate.command)
        gate.wait_reached()
        (runner,) = lab.runners
        started = children(run.pid)
        visible = [proc(run.pid, "cmdline"), *(proc(pid, file) for pid in started for file in ("cmdline", "environ"))]
        gate.open()
        run.wait_exit()
    secrets = (token, runner.bearer, _JIT_BEGINS, *lab.sim.private_key_pem.splitlines()[1:3])
    assert any(runner.name.encode() in text for text in visible)  # QEMU's arguments are among them
    assert [secret for secret in secrets if any(secret.encode() in text for text in visible)] == []
