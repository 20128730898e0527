"""Whether guests run on KVM: the proof by a real QEMU, and how long it is believed."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ghrunner_vm.errors import PermanentError
from ghrunner_vm.vm.jail import Identity, lease_identity
from ghrunner_vm.vm.qemu import accelerator

QEMU = shutil.which("qemu-system-x86_64")
OURS = Identity(None)


@pytest.fixture
def identity(tmp_path: Path) -> Iterator[Identity]:
    with lease_identity(tmp_path / "uids", 1_900_000_000, 16) as leased:
        yield leased


def test_the_rom_is_executed_by_a_real_qemu(identity: Identity) -> None:
    assert QEMU is not None
    assert accelerator.executes(QEMU, "tcg", identity)


def test_another_rom_proves_nothing(identity: Identity, monkeypatch: pytest.MonkeyPatch) -> None:
    # The same guest with the value left out: QEMU must end for the right reason, not for any.
    wrong = accelerator.rom().replace(b"\xb0\x2a", b"\xb0\x2b")
    monkeypatch.setattr(accelerator, "rom", lambda: wrong)
    assert QEMU is not None
    assert not accelerator.executes(QEMU, "tcg", identity)


def test_the_rom_begins_at_the_reset_vector() -> None:
    rom = accelerator.rom()
    assert len(rom) == 65536
    assert rom[:-16] == bytes(65520)
    assert rom[-16:-14] == b"\xb0\x2a"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Host":
    # Whether this host has KVM is none of these tests' business.
    monkeypatch.setattr(accelerator, "_KVM", "/dev/null")
    return Host(tmp_path)


class Host:
    """A QEMU that only counts how often it is asked, and exits as told."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.memory = root / "kvm.json"
        self.binary = root / "qemu"
        self.install(85)

    def install(self, code: int) -> None:
        self.binary.write_text(f"#!/bin/sh\necho x >>{self._root}/asked\nexit {code}\n")
        self.binary.chmod(0o755)

    def kvm_works(self) -> bool:
        return accelerator.kvm_works(str(self.binary), OURS, self.memory)

    @property
    def asked(self) -> int:
        return len((self._root / "asked").read_text().splitlines())


def test_a_yes_is_remembered(host: Host) -> None:
    assert [host.kvm_works() for _ in range(3)] == [True] * 3
    assert host.asked == 1


@pytest.mark.parametrize("code", [0, 1, 2, 127])
def test_a_no_may_be_mended_and_is_asked_again(host: Host, code: int) -> None:
    host.install(code)
    assert [host.kvm_works() for _ in range(2)] == [False] * 2
    assert host.asked == 2
    host.install(85)
    assert host.kvm_works()


def test_another_binary_is_asked_anew(host: Host) -> None:
    assert host.kvm_works()
    host.binary.unlink()
    host.install(100)
    assert not host.kvm_works()
    assert host.asked == 2


def test_after_a_boot_it_is_asked_anew(host: Host) -> None:
    host.kvm_works()
    known = json.loads(host.memory.read_text())
    known["key"][0] = "another boot"
    host.memory.write_text(json.dumps(known))
    host.kvm_works()
    assert host.asked == 2


@pytest.mark.parametrize("memory", ["", "[]", "{}", '{"key": 1}', "\0", '{"key": null, "kvm": true}'])
def test_a_memory_that_says_nothing_is_replaced(host: Host, memory: str) -> None:
    host.memory.write_text(memory)
    assert host.kvm_works()
    assert host.kvm_works()
    assert host.asked == 1


def test_a_host_without_the_device_is_not_asked(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator, "_KVM", "/dev/no-such-device")
    assert not host.kvm_works()
    assert not host.memory.exists()


@pytest.mark.parametrize(
    ("wanted", "kvm", "allowed", "chosen"),
    [
        ("auto", True, False, "kvm"),
        ("auto", True, True, "kvm"),
        ("auto", False, True, "tcg"),
        ("kvm", True, False, "kvm"),
        ("tcg", True, True, "tcg"),
        ("tcg", False, True, "tcg"),
    ],
)
def test_what_is_chosen(wanted: str, kvm: bool, allowed: bool, chosen: str) -> None:
    assert accelerator.choose(wanted, kvm=kvm, allow_emulation=allowed) == chosen


@pytest.mark.parametrize(
    ("wanted", "kvm", "allowed", "words"),
    [
        ("auto", False, False, "would be emulated"),
        ("tcg", True, False, "would be emulated"),
        ("tcg", False, False, "would be emulated"),
        ("kvm", False, False, "KVM does not work"),
        ("kvm", False, True, "KVM does not work"),
    ],
)
def test_what_is_refused(wanted: str, kvm: bool, allowed: bool, words: str) -> None:
    with pytest.raises(PermanentError, match=words):
        accelerator.choose(wanted, kvm=kvm, allow_emulation=allowed)
