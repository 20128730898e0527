"""The smallest guests: firmware of a few instructions that leave a proof of having been executed."""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ghrunner_vm.vm.base import Arch

_X86_ROM_SIZE = 1 << 16
_X86_VALUE = 0x2A
_ARM_WORD = b"a guest was here\n"
_ARM_UART = 0x0900_0000  # the PL011 of the `virt` board
_PSCI_SYSTEM_OFF = 0x8400_0008  # Arm's Power State Coordination Interface, DEN0022


@dataclass(frozen=True)
class Probe:
    """A guest, and what QEMU ends with if the guest's instructions were executed, and only then."""

    rom: bytes
    options: Sequence[str]
    exit_code: int
    output: bytes


def _x86_rom() -> bytes:
    """At the reset vector: write to port 0xf4, then halt."""
    code = bytes([0xB0, _X86_VALUE, 0xE6, 0xF4, 0xFA, 0xF4, 0xEB, 0xFD])  # mov al,V; out 0xf4,al; cli; hlt; jmp back
    start = _X86_ROM_SIZE - 16
    return bytes(start) + code + bytes(16 - len(code))


def _arm_rom() -> bytes:
    """At address 0: switch the serial line on, print a word, power off."""
    instructions = [
        _movz(1, _ARM_UART >> 16, shift=16),
        _movz(2, 0x301),  # transmitter, receiver and the whole on
        _store(2, 1, 0x30),
        *(code for letter in _ARM_WORD for code in (_movz(2, letter), _store(2, 1, 0))),
        _movz(0, _PSCI_SYSTEM_OFF >> 16, shift=16),
        _movz(0, _PSCI_SYSTEM_OFF & 0xFFFF, keep=True),
        0xD4000002,  # hvc #0
        0x14000000,  # b .
    ]
    return struct.pack(f"<{len(instructions)}I", *instructions)


def _movz(register: int, value: int, *, shift: int = 0, keep: bool = False) -> int:
    """Set 16 bits of a register, the others to 0 unless they are to `keep` their values (movk)."""
    return (0xF2800000 if keep else 0xD2800000) | (shift // 16) << 21 | value << 5 | register


def _store(register: int, address: int, offset: int) -> int:
    """Write 32 bits of a register to the address in another one (str)."""
    return 0xB9000000 | (offset // 4) << 10 | address << 5 | register


PROBES: Mapping[Arch, Probe] = {
    "x86_64": Probe(
        rom=_x86_rom(),
        options=("-machine", "q35", "-device", "isa-debug-exit,iobase=0xf4,iosize=1"),
        exit_code=(_X86_VALUE << 1) | 1,  # by isa-debug-exit
        output=b"",
    ),
    # Its board has no such device, and an exit code of 0 has many reasons: hence the word.
    "aarch64": Probe(
        rom=_arm_rom(),
        options=("-machine", "virt,gic-version=max", "-chardev", "stdio,id=word", "-serial", "chardev:word"),
        exit_code=0,
        output=_ARM_WORD,
    ),
}
