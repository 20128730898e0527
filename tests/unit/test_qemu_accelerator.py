"""Whether guests run on KVM: the proof by a real QEMU, and how long it is believed."""

import json
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ghrunner_vm import process
from ghrunner_vm.errors import PermanentError
from ghrunner_vm.vm.base import Arch
from ghrunner_vm.vm.jail import Identity, lease_identity
from ghrunner_vm.vm.qemu import accelerator
from ghrunner_vm.vm.qemu.probe import PROBES

OURS = Identity(None)
HOST: Arch = "aarch64" if platform.machine() == "aarch64" else "x86_64"
OTHER: Arch = "x86_64" if HOST == "aarch64" else "aarch64"
ARCHITECTURES: list[Arch] = ["x86_64", "aarch64"]
PROOF = PROBES[HOST]


def qemu(arch: Arch) -> str:
    found = shutil.which(f"qemu-system-{arch}")
    assert found is not None
    return found


@pytest.fixture
def identity(tmp_path: Path) -> Iterator[Identity]:
    with lease_identity(tmp_path / "uids", 1_900_000_000, 16) as leased:
        yield leased


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_rom_is_executed_by_a_real_qemu(arch: Arch, identity: Identity) -> None:
    assert accelerator.executes(qemu(arch), arch, "tcg", identity)


@pytest.mark.parametrize(
    ("arch", "right", "wrong"),
    [("x86_64", b"\xb0\x2a", b"\xb0\x2b"), ("aarch64", b"\x22\x0c\x80\xd2", b"\x42\x0c\x80\xd2")],
)
def test_another_rom_proves_nothing(
    arch: Arch, right: bytes, wrong: bytes, identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The same guest with another value or letter: QEMU must end for the right reason, not for any.
    rom = PROBES[arch].rom.replace(right, wrong)
    assert rom != PROBES[arch].rom
    monkeypatch.setitem(PROBES, arch, replace(PROBES[arch], rom=rom))
    assert not accelerator.executes(qemu(arch), arch, "tcg", identity)


def test_the_x86_rom_begins_at_the_reset_vector() -> None:
    rom = PROBES["x86_64"].rom
    assert len(rom) == 65536
    assert rom[:-16] == bytes(65520)
    assert rom[-16:-14] == b"\xb0\x2a"


def test_the_probe_is_right_about_this_host() -> None:
    # Another guest, on another way out: a /dev/kvm that merely opens makes no difference to what is true.
    assert accelerator.executes(qemu(HOST), HOST, "kvm", OURS) is _a_guest_speaks_on_kvm()


def _a_guest_speaks_on_kvm() -> bool:
    """Whether a guest of the host's architecture gets a letter to its serial line within 10 s."""
    # mov dx,0x3f8; mov al,'K'; out dx,al; mov al,1; out 0xf4,al; hlt — at the reset vector
    x86 = bytes(65520) + b"\xba\xf8\x03\xb0K\xee\xb0\x01\xe6\xf4\xf4".ljust(16, b"\0")
    serial = ("-chardev", "stdio,id=word", "-serial", "chardev:word")
    rom, options = (x86, (*PROOF.options, *serial)) if HOST == "x86_64" else (PROOF.rom, PROOF.options)
    bios, output = os.memfd_create("rom"), os.memfd_create("output")
    try:
        os.write(bios, rom)
        general = ("-nodefaults", "-display", "none", "-accel", "kvm", "-cpu", "host", "-m", "16M")
        argv = [qemu(HOST), *general, "-bios", f"/proc/self/fd/{bios}", *options]
        process.exit_code(argv, timeout=10, inherit=[bios], output=output)
        return os.pread(output, 100, 0).startswith(b"K" if HOST == "x86_64" else PROOF.output)
    finally:
        os.close(bios)
        os.close(output)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Host":
    # Whether this host has KVM is none of these tests' business.
    monkeypatch.setattr(accelerator, "_KVM", "/dev/null")
    # Behind walls the fake could not write down that it was asked.
    monkeypatch.setattr(accelerator, "in_cell", lambda argv, _cell, _program: argv)
    return Host(tmp_path)


class Host:
    """A QEMU that only counts how often it is asked, and ends as told."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.memory = root / "kvm.json"
        self.binary = root / "qemu"
        self.install(f"exit {PROOF.exit_code}")

    def install(self, end: str, output: bytes = PROOF.output) -> None:
        self.binary.write_text(f"#!/bin/sh\necho x >>{self._root}/asked\nprintf '{output.decode()}'\n{end}\n")
        self.binary.chmod(0o755)

    def kvm_works(self, arch: Arch = HOST) -> bool:
        return accelerator.kvm_works(str(self.binary), arch, OURS, self.memory)

    @property
    def asked(self) -> int:
        return len((self._root / "asked").read_text().splitlines())


def test_a_yes_is_remembered(host: Host) -> None:
    assert [host.kvm_works() for _ in range(3)] == [True] * 3
    assert host.asked == 1


@pytest.mark.parametrize("end", ["exit 1", "exit 2", "exit 127", "kill -ABRT $$", "exec sleep 1000"])
def test_a_no_may_be_mended_and_is_asked_again(host: Host, end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # What a /dev/kvm that opens and runs no guest makes of QEMU: it aborts, or it spins for ever.
    monkeypatch.setattr(accelerator, "PROBE_SECONDS", 0.3)
    host.install(end)
    assert [host.kvm_works() for _ in range(2)] == [False] * 2
    assert host.asked == 2
    monkeypatch.setattr(accelerator, "PROBE_SECONDS", 30.0)
    host.install(f"exit {PROOF.exit_code}")
    assert host.kvm_works()


def test_an_end_without_the_guests_word_proves_nothing(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")  # whose proof has a word
    host.install("exit 0", b"qemu: something else\n")
    assert not host.kvm_works("aarch64")
    host.install("exit 0", PROBES["aarch64"].output)
    assert host.kvm_works("aarch64")


def test_a_guest_of_another_architecture_is_not_even_tried(host: Host) -> None:
    assert not host.kvm_works(OTHER)
    assert not (host.binary.parent / "asked").exists()


def test_another_binary_is_asked_anew(host: Host) -> None:
    assert host.kvm_works()
    host.binary.unlink()
    host.install("exit 100")
    assert not host.kvm_works()
    assert host.asked == 2


def test_after_a_boot_it_is_asked_anew(host: Host) -> None:
    host.kvm_works()
    known = json.loads(host.memory.read_text())
    known["key"][0] = "another boot"
    host.memory.write_text(json.dumps(known))
    host.kvm_works()
    assert host.asked == 2


@pytest.mark.parametrize("memory", ["", "[]", "{}", '{"key": 1}', "\0", '{"key": null, "value": true}'])
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
    assert accelerator.choose(wanted, HOST, kvm=kvm, allow_emulation=allowed) == chosen


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
        accelerator.choose(wanted, HOST, kvm=kvm, allow_emulation=allowed)


@pytest.mark.parametrize("wanted", ["auto", "kvm"])
def test_a_refusal_says_that_the_architecture_is_the_reason(wanted: str) -> None:
    with pytest.raises(PermanentError) as caught:
        accelerator.choose(wanted, OTHER, kvm=False, allow_emulation=False)
    assert f"KVM cannot run an {OTHER} guest on this {HOST} host" in str(caught.value.details)
    assert f"Use an {OTHER} host with KVM" in str(caught.value.resolution)
