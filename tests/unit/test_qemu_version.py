"""QEMU is found and new enough; its version is asked for once."""

from pathlib import Path

import pytest

from ghrunner_vm.errors import ExitCode, PermanentError
from ghrunner_vm.vm.base import Arch
from ghrunner_vm.vm.qemu import version


class Host:
    """A host whose only programs are the QEMUs that a test installs. They count how often they are asked."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.memory = root / "memory.json"

    def install(self, arch: Arch, says: str) -> Path:
        binary = self._root / f"qemu-system-{arch}"
        binary.unlink(missing_ok=True)
        binary.write_text(f"#!/bin/sh\necho x >>{self._root}/asked\necho '{says}'\n", encoding="utf-8")
        binary.chmod(0o755)
        return binary

    @property
    def asked(self) -> int:
        return len((self._root / "asked").read_text(encoding="utf-8").splitlines())


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.setenv("PATH", str(tmp_path))
    return Host(tmp_path)


@pytest.mark.parametrize(
    "number", ["7.2.0", "7.2.22 (Debian 1:7.2+dfsg-7)", "8.0.0-rc1", "10.0.2", "11.1.50 (v11.1.0)"]
)
def test_new_enough(host: Host, number: str) -> None:
    binary = host.install("x86_64", f"QEMU emulator version {number}")
    assert version.find("x86_64", host.memory) == str(binary)


@pytest.mark.parametrize(("number", "short"), [("6.2.0 (Debian 1:6.2+dfsg-2ubuntu6)", "6.2"), ("7.1.9", "7.1")])
def test_too_old_with_both_versions_and_the_package(host: Host, number: str, short: str) -> None:
    host.install("aarch64", f"QEMU emulator version {number}")
    with pytest.raises(PermanentError) as caught:
        version.find("aarch64", host.memory)
    assert caught.value.brief == f"qemu-system-aarch64 is version {short}; ghvm needs 7.2 or newer"
    assert "qemu-system-arm" in str(caught.value.resolution)
    assert caught.value.exit_code is ExitCode.PERMANENT


@pytest.mark.parametrize(("arch", "package"), [("x86_64", "qemu-system-x86"), ("aarch64", "qemu-system-arm")])
def test_missing_with_the_package(host: Host, arch: Arch, package: str) -> None:
    with pytest.raises(PermanentError, match=f"qemu-system-{arch} is not installed") as caught:
        version.find(arch, host.memory)
    assert f"apt-get install {package}." in str(caught.value.resolution)


def test_something_else_of_that_name(host: Host) -> None:
    host.install("x86_64", "hello")
    with pytest.raises(PermanentError, match="does not tell its version"):
        version.find("x86_64", host.memory)


def test_the_version_is_asked_for_once_and_again_after_an_upgrade(host: Host) -> None:
    host.install("x86_64", "QEMU emulator version 7.1.0")
    for _ in range(2):
        with pytest.raises(PermanentError):
            version.find("x86_64", host.memory)
    assert host.asked == 1
    host.install("x86_64", "QEMU emulator version 10.0.0")
    assert [version.find("x86_64", host.memory) for _ in range(3)] == [
        str(host.memory.parent / "qemu-system-x86_64")
    ] * 3
    assert host.asked == 2


def test_a_memory_that_cannot_be_written_is_no_obstacle(host: Host) -> None:
    host.install("x86_64", "QEMU emulator version 7.2.0")
    assert version.find("x86_64", host.memory / "not/a/directory")
