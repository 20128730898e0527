"""QEMU itself, with a guest that is no more than firmware without anything to boot."""

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ghrunner_vm import process
from ghrunner_vm.errors import GhvmError, InfrastructureError, NotUpError
from ghrunner_vm.vm.base import DirectBoot, EndReason, VirtualMachine, VmDescription
from ghrunner_vm.vm.jail import Identity
from ghrunner_vm.vm.qemu.engine import QemuEngine

SECONDS = 60
_NOBODY = 65534

Use = Callable[[VirtualMachine], Coroutine[None, None, None]]


@pytest.fixture
def described(tmp_path: Path) -> Iterator[VmDescription]:
    with contextlib.ExitStack() as stack:
        disks = []
        for name, access in (("base", os.O_RDONLY), ("overlay", os.O_RDWR)):
            path = tmp_path / f"{name}.qcow2"
            process.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "64M"], timeout=SECONDS)
            disks.append(os.open(path, access))
            stack.callback(os.close, disks[-1])
        yield VmDescription(
            name="engine",
            arch="x86_64",
            accelerator="tcg",
            cores=1,
            ram=64 << 20,
            base_disk=disks[0],
            overlay=disks[1],
            boot=None,
            network=None,
        )


def launched(description: VmDescription, directory: Path, use: Use) -> None:
    """Launch it as an ordinary user, and do something with it."""
    binary = shutil.which("qemu-system-x86_64")
    assert binary is not None
    identity = Identity(_NOBODY if os.geteuid() == 0 else None)

    async def work() -> None:
        async with QemuEngine(binary, identity).launch(description, directory) as machine:
            await use(machine)

    asyncio.run(asyncio.wait_for(work(), SECONDS))


@contextlib.asynccontextmanager
async def stopped(machine: VirtualMachine) -> AsyncIterator[None]:
    os.kill(machine.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(machine.pid, signal.SIGCONT)


def test_it_answers_until_it_hangs(described: VmDescription, tmp_path: Path) -> None:
    async def use(machine: VirtualMachine) -> None:
        assert await machine.answers()
        async with stopped(machine):
            assert not await machine.answers()
            await machine.power_down()  # gives up by itself
        assert await machine.answers()

    launched(described, tmp_path, use)


def test_one_that_hangs_can_be_killed(described: VmDescription, tmp_path: Path) -> None:
    async def use(machine: VirtualMachine) -> None:
        os.kill(machine.pid, signal.SIGSTOP)
        ending = asyncio.create_task(machine.ended())
        machine.kill()
        assert (await ending).reason is EndReason.KILLED
        assert not await machine.answers()

    launched(described, tmp_path, use)


def test_one_that_is_killed_by_others_has_crashed(described: VmDescription, tmp_path: Path) -> None:
    async def use(machine: VirtualMachine) -> None:
        os.kill(machine.pid, signal.SIGKILL)
        end = await machine.ended()
        assert (end.reason, end.detail) == (EndReason.CRASHED, "signal 9")

    launched(described, tmp_path, use)


async def never(_: VirtualMachine) -> None:
    raise AssertionError("it must not start")


def refusal(description: VmDescription, directory: Path) -> GhvmError:
    with pytest.raises(GhvmError) as caught:
        launched(description, directory, never)
    return caught.value


def test_too_little_memory_is_named(described: VmDescription, tmp_path: Path) -> None:
    error = refusal(replace(described, ram=1 << 46), tmp_path)
    assert isinstance(error, InfrastructureError)
    assert "not enough memory" in error.brief
    assert '"ram"' in str(error.resolution)


def test_what_nobody_has_thought_of_is_shown_in_qemus_own_words(described: VmDescription, tmp_path: Path) -> None:
    error = refusal(replace(described, arch="aarch64", boot=DirectBoot(described.base_disk, None, "")), tmp_path)
    assert isinstance(error, NotUpError)
    assert "qemu-system-x86_64" in str(error.details)


def test_without_the_hosts_network_it_has_an_empty_one(described: VmDescription, tmp_path: Path) -> None:
    async def use(machine: VirtualMachine) -> None:
        links = [Path(f"/proc/{pid}/ns/net").readlink() for pid in (machine.pid, os.getpid())]
        if links[0] == links[1]:
            pytest.skip("this host forbids namespaces")
        interfaces = Path(f"/proc/{machine.pid}/net/dev").read_text().splitlines()[2:]
        assert [line.split(":")[0].strip() for line in interfaces] == ["lo"]

    launched(described, tmp_path, use)


def test_its_limits_hold(described: VmDescription, tmp_path: Path) -> None:
    async def use(machine: VirtualMachine) -> None:
        lines = Path(f"/proc/{machine.pid}/limits").read_text().splitlines()
        limits = {line[:25].strip(): line[26:].split()[:2] for line in lines}
        assert limits["Max core file size"] == ["0", "0"]
        assert limits["Max open files"] == ["4096", "4096"]
        assert limits["Max file size"] == [str((64 << 20) * 9 // 8 + (1 << 30))] * 2
        if os.geteuid() == 0:
            assert limits["Max processes"] == ["161", "161"]

    launched(described, tmp_path, use)
