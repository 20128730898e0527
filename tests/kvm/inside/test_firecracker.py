"""Firecracker in its jailer: a job from an image that `ghvm images build` made."""

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ghrunner_vm import process
from ghrunner_vm.errors import ExitCode
from tests import guests
from tests.harness import GhvmRun, proc
from tests.kvm import layered
from tests.kvm.inside import SECONDS
from tests.kvm.inside.service import control_group, installed, is_gone
from tests.lab import Lab

_SETTINGS = {"GHVM_FIRECRACKER_ALLOW_OLD": "true"}
_DOCKER = """
mkdir box && cp /bin/busybox box/ && tar -C box -c . | docker import - box >/dev/null
docker info --format '{{.Driver}}'
stat -f -c %T /var/lib/docker
docker run --rm --network none box /busybox echo hello from a container
"""


class FirecrackerLab(Lab):
    """A lab whose machines are Firecracker's."""

    @contextlib.contextmanager
    def run(self, *flags: str, **more: Any) -> Iterator[GhvmRun]:  # noqa: ANN401 passed on as it is
        usual: dict[str, Any] = {"engine": "firecracker", "image": layered.NAME, "ram": "384M", "env": _SETTINGS}
        with super().run("--accel", "kvm", *flags, **{**usual, "timeout_seconds": 250, **more}) as run:
            yield run


@pytest.fixture
def lab(lab: Lab) -> Lab:
    return FirecrackerLab(**vars(lab))


def test_a_job_from_its_registration_to_the_end_of_its_machine(lab: Lab) -> None:
    """In a jail of its own, as a user of its own; SSH leads to it without a way through its network."""
    with lab.gate() as gate, lab.run() as run:
        job = lab.job(f"echo hello from $(id -un); df --output=fstype / | tail -1; {gate.command}")
        gate.wait_reached(SECONDS)
        (vmm,) = lab.machines
        status = dict(line.split(":\t", 1) for line in proc(vmm, "status").decode().splitlines() if ":\t" in line)
        jail = sorted(path.name for path in Path(f"/proc/{vmm}/root").iterdir())
        entered = lab.ghvm("ssh", "--", "echo", "$SSH_CONNECTION", "$(id -un)", timeout=SECONDS)
        gate.open()
        assert run.wait_exit(SECONDS) == ExitCode.OK, run.transcript()
    assert entered.stdout == "UNKNOWN 65535 UNKNOWN 65535 runner\n", entered.stderr
    assert (run.outcome, run.result["job-result"]) == ("job-done", "Succeeded")
    assert lab.finished(job).log == ["hello from runner", "overlay"]
    assert not re.match(r"0\b", status["Uid"])
    assert (status["Seccomp"], status["CapEff"], status["NSpid"].split()[1:]) == ("2", "0" * 16, ["2"])
    given = ["base", "initrd", "kernel", "scratch", "vm.json"]
    assert jail == sorted(["dev", "firecracker", "firecracker.pid", "run", "vsock", *given])
    (record,) = (json.loads(path.read_text()) for path in lab.state.glob("history/*/run.json"))
    assert record["machine"]["accelerator"] == "kvm"


def test_of_two_at_once_one_is_killed_and_nothing_of_it_is_left(lab: Lab) -> None:
    """No process, jail, mount, namespace, scratch disk or control group. The other, all in memory, does its job."""
    before = _namespaces()
    told = "stat -f -c %T / /var/lib/docker; df --output=size -BM / | tail -1 | tr -d ' '"
    with lab.gate() as gate, lab.run() as on_disk:
        lab.job(gate.command)
        gate.wait_reached(SECONDS)
        (vmm,) = lab.machines
        group = control_group(vmm)
        with lab.run(root_disk="128M", root_disk_in="ram") as in_memory:
            job = lab.job(f"{told}; free -m | awk '/Mem/ {{ print ($2 > 400) }}'", name="second")
            in_memory.wait("launched", SECONDS)
            assert len(lab.machines) == 2
            on_disk.die(vmm)
            assert in_memory.wait_exit(SECONDS) == ExitCode.OK, in_memory.transcript()
    assert lab.finished(job).log == ["overlayfs", "tmpfs", "128M", "1"]
    lab.let_go_and_collect()
    assert is_gone(group)
    assert _namespaces() == before
    assert "jail" not in Path("/proc/mounts").read_text()


def test_docker_has_its_own_layers_on_the_scratch_disk(lab: Lab) -> None:
    with lab.run(ram="640M") as run:
        job = lab.job(_DOCKER)
        assert run.wait_exit(SECONDS + 80) == ExitCode.OK, run.transcript()
    assert lab.finished(job).log == ["overlay2", "ext2/ext3", "hello from a container"]


def test_a_kernels_panic_is_told_from_a_job_that_is_done(lab: Lab) -> None:
    with lab.run() as run:
        lab.job("sudo sh -c 'echo c >/proc/sysrq-trigger'")
        assert run.wait_exit(SECONDS) == ExitCode.ERROR, run.transcript()
    assert run.outcome == "kernel-panic"
    lab.let_go_and_collect()


def test_a_program_that_is_not_the_one_in_the_settings_is_not_started(lab: Lab) -> None:
    with lab.run(env={**_SETTINGS, "GHVM_JAILER_SHA256": "0" * 64}) as run:
        assert run.wait_exit(SECONDS) == ExitCode.PERMANENT
    assert "another jailer than the settings name" in run.transcript()


def test_an_old_jailer_is_not_started(lab: Lab) -> None:
    with lab.run(env={}) as run:
        assert run.wait_exit(SECONDS) == ExitCode.PERMANENT
    assert "CVE-2026-1386" in run.transcript()


def test_an_image_for_qemu_alone_is_refused(lab: Lab) -> None:
    with lab.run(image=guests.TINY) as run:
        assert run.wait_exit(SECONDS) == ExitCode.PERMANENT
    assert "not made for the engine firecracker" in run.transcript()


def _namespaces() -> list[str]:
    """All namespaces of processes, but those of the services that come and go."""
    kinds = ("net", "mnt", "pid", "ipc")
    words = [word for kind in kinds for word in ("--type", kind)]
    listed = process.run(["lsns", *words, "--noheadings", "--output", "ns,command"], timeout=SECONDS)
    return sorted(line for line in listed.splitlines() if "systemd" not in line)


def test_as_a_service_one_job_follows_the_other(lab: Lab) -> None:
    settings = {"firecracker-allow-old": True, "images-cache-dir": str(lab.cache)}
    spec: dict[str, Any] = {"engine": "firecracker", "image": layered.NAME, "ram": "384M"}
    jobs = [lab.job("true", name=name) for name in ("first", "second")]
    with installed(lab, "--firecracker", settings=settings, **spec) as service:
        service.start()
        for job in jobs:
            assert lab.sim.state.wait_job(job.id, "completed", SECONDS).conclusion == "success"
        service.stop()
        assert (service.property("Result"), service.runs, lab.machines) == ("success", [], [])
    assert len({lab.finished(job).runner_name for job in jobs}) == len(jobs)
