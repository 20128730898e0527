"""Firecracker in its jailer: a job from an image that `ghvm images build` made."""

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ghrunner_vm.errors import ExitCode
from tests.harness import GhvmRun, proc
from tests.kvm import layered
from tests.kvm.inside import SECONDS
from tests.lab import Lab

_SETTINGS = {"GHVM_FIRECRACKER_ALLOW_OLD": "true"}


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
    """In a jail of its own, as a user of its own."""
    with lab.gate() as gate, lab.run() as run:
        job = lab.job(f"echo hello from $(id -un); df --output=fstype / | tail -1; {gate.command}")
        gate.wait_reached(SECONDS)
        (vmm,) = lab.machines
        status = dict(line.split(":\t", 1) for line in proc(vmm, "status").decode().splitlines() if ":\t" in line)
        jail = sorted(path.name for path in Path(f"/proc/{vmm}/root").iterdir())
        gate.open()
        assert run.wait_exit(SECONDS) == ExitCode.OK, run.transcript()
    assert (run.outcome, run.result["job-result"]) == ("job-done", "Succeeded")
    assert lab.finished(job).log == ["hello from runner", "overlay"]
    assert not re.match(r"0\b", status["Uid"])
    assert (status["Seccomp"], status["CapEff"], status["NSpid"].split()[1:]) == ("2", "0" * 16, ["2"])
    given = ["base", "initrd", "kernel", "scratch", "vm.json"]
    assert jail == sorted(["dev", "firecracker", "firecracker.pid", "run", "vsock", *given])
    (record,) = (json.loads(path.read_text()) for path in lab.state.glob("history/*/run.json"))
    assert record["machine"]["accelerator"] == "kvm"
