"""The surroundings of tests in the emulated host."""

import contextlib
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from ghrunner_vm import process
from ghrunner_vm.config import Settings
from ghrunner_vm.vm.jail import lease_identity
from ghrunner_vm.vm.qemu import accelerator, version
from tests.harness import GhvmRun
from tests.kvm.inside import SECONDS
from tests.kvm.inside.service import STATE, Service, installed
from tests.lab import Lab

_IMAGES = Path(__file__).parents[3] / "images"


class KvmLab(Lab):
    """A lab whose machines run on KVM."""

    @contextlib.contextmanager
    def run(self, *flags: str, **more: Any) -> Iterator[GhvmRun]:  # noqa: ANN401 passed on as it is
        with super().run("--accel", "kvm", *flags, **more) as run:
            yield run


@pytest.fixture(scope="session")
def images() -> Path:
    """The images that were brought along: here none can be made."""
    return _IMAGES


@pytest.fixture(scope="session")
def proof(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file in which ghvm remembers for its state that KVM works."""
    directory = tmp_path_factory.mktemp("proof")
    qemu = version.find("x86_64", directory / "qemu.json")
    uids = Settings()
    with (
        pytest.MonkeyPatch.context() as patch,
        lease_identity(directory / "uids", uids.vm_uid_base, uids.vm_uid_count) as identity,
    ):
        # An emulated processor that others need as well is not always done within the probe's seconds.
        patch.setattr(accelerator, "PROBE_SECONDS", SECONDS)
        assert accelerator.kvm_works(qemu, "x86_64", identity, directory / "kvm.json")
    return directory / "kvm.json"


@pytest.fixture
def lab(lab: Lab, proof: Path) -> Lab:
    """A lab whose machines run on KVM, which it has seen to work."""
    lab.state.mkdir(mode=0o700)
    shutil.copy(proof, lab.state)
    return KvmLab(**vars(lab))


@pytest.fixture
def service(lab: Lab, proof: Path) -> Iterator[Service]:
    """A ghvm@ service for the jobs of this test; it is not started yet."""
    with installed(lab) as service:
        shutil.copy(proof, STATE)
        yield service


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What systemd and the kernel said during a test that failed."""
    report = yield
    if report.failed:
        journal = process.run(["journalctl", "--quiet", f"--since=@{call.start:.0f}"], timeout=SECONDS)
        report.sections.append(("journal", journal))
    return report
