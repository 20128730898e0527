"""A job in a real arm64 machine, by direct kernel boot and through UEFI. On another host it is emulated."""

import platform
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ghrunner_vm.errors import ExitCode
from ghrunner_vm.images.server import serve
from tests import arm64
from tests.lab import Lab

pytestmark = pytest.mark.timeout(300)  # the images may have to be made first

_READY_SECONDS = 60.0


@pytest.fixture(scope="module")
def arm64_server(kept: Path) -> Iterator[str]:
    """The address of a server that offers the arm64 images."""
    with serve(arm64.build(kept), cache_dir=kept / "compressed") as service:
        service.wait_ready(_READY_SECONDS)
        yield service.url


@pytest.fixture
def arm64_lab(lab: Lab, arm64_server: str) -> Lab:
    """A lab whose images are for arm64."""
    return replace(lab, images_url=arm64_server, cache=lab.directory / "cache")


def test_an_image_with_an_agent_by_direct_kernel_boot(arm64_lab: Lab) -> None:
    job = arm64_lab.job("echo hello from $(id -un) on $(uname -m)")
    with arm64_lab.run(image=arm64.TINY, arch="aarch64") as run:
        assert run.wait_exit() == ExitCode.OK
    assert (run.outcome, run.result["job-result"]) == ("job-done", "Succeeded")
    assert arm64_lab.finished(job).log == ["hello from runner on aarch64"]


def test_a_plain_disk_is_booted_by_its_own_loader_through_uefi(arm64_lab: Lab) -> None:
    job = arm64_lab.job("ls -d /sys/firmware/efi; uname -m")
    with arm64_lab.run("--poll-seconds", "1", image=arm64.PLAIN, arch="aarch64", credential="direct") as run:
        assert run.wait_exit() == ExitCode.OK
    assert run.outcome == "job-done"
    assert arm64_lab.finished(job).log == ["/sys/firmware/efi", "aarch64"]


def test_kvm_is_not_expected_to_run_another_architecture(lab: Lab) -> None:
    other = "x86_64" if platform.machine() == "aarch64" else "aarch64"
    with lab.run("--accel", "kvm", arch=other) as run:
        assert run.wait_exit() == ExitCode.PERMANENT
    assert f"KVM cannot run an {other} guest" in str(run.lines[-1].facts["details"])


@pytest.mark.parametrize(("qemu", "words"), [(None, "is not installed"), ("6.2.0", "is version 6.2; ghvm needs 7.2")])
def test_a_qemu_that_does_not_do_is_refused_before_anything_is_made(
    lab: Lab, tmp_path: Path, qemu: str | None, words: str
) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    if qemu is not None:
        program = programs / "qemu-system-aarch64"
        program.write_text(f"#!/bin/sh\necho QEMU emulator version {qemu}\n", encoding="utf-8")
        program.chmod(0o755)
    with lab.run(arch="aarch64", env={"PATH": str(programs)}) as run:
        assert run.wait_exit() == ExitCode.PERMANENT
    assert f"qemu-system-aarch64 {words}" in run.lines[-1].message
    assert "qemu-system-arm" in str(run.lines[-1].facts["resolution"])
    assert (set(run.steps), lab.runs) == ({None}, [])
