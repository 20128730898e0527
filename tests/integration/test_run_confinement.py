"""What a running machine may do and may see, as /proc tells it."""

import base64
import os
import re
import signal
from pathlib import Path

from ghrunner_vm.errors import ExitCode
from tests import guests
from tests.harness import children, proc
from tests.lab import Lab

_OWN_FILES = {"/dev/null", "/dev/urandom", "overlay.qcow2", "lock", "lease"}
_IMAGE_FILES = {f"{guests.TINY}.{suffix}" for suffix in ("qcow2", "vmlinuz", "initrd")}

_JIT_BEGINS = base64.b64encode(b'{".runner').decode()
"""How every JIT config begins."""


def _status(pid: int) -> dict[str, str]:
    lines = (line.partition(":") for line in proc(pid, "status").decode().splitlines())
    return {key: value.strip() for key, _, value in lines}


def _descriptors(pid: int) -> list[str]:
    return [str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()]


def _unix_sockets(pid: int) -> list[str]:
    """The Unix sockets among a process's descriptors, by inode."""
    unix = {line.split()[6] for line in proc(pid, "net/unix").decode().splitlines()[1:]}
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
    if os.geteuid() == 0:  # an ordinary user's ghvm has no groups and no bounding set to give up
        assert (status["Groups"], int(status["CapBnd"], 16)) == ("", 0)
    files = [text for text in held if not text.startswith(("anon_inode:", "socket:"))]
    names = {text if text.startswith("/dev/") else Path(text).name for text in files}
    assert names - {status["Uid"].split()[0]} == _OWN_FILES | _IMAGE_FILES
    assert len(set(sockets)) == len(("monitor", "agent", "console", "messages"))


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
