"""Does KVM work here? Proven by running a guest, since neither /dev/kvm nor an ioctl on it proves anything."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from ghrunner_vm import process
from ghrunner_vm.errors import PermanentError
from ghrunner_vm.files import write_atomically
from ghrunner_vm.vm.base import Accelerator
from ghrunner_vm.vm.jail import Identity, confined

PROBE_SECONDS = 2.0
_KVM = "/dev/kvm"
# isa-debug-exit turns a written value into the exit code (value << 1) | 1.
_VALUE = 0x2A
_EXIT_CODE = (_VALUE << 1) | 1
_ROM_SIZE = 1 << 16


def rom() -> bytes:
    """A firmware of four instructions at the reset vector: write to port 0xf4, then halt."""
    code = bytes([0xB0, _VALUE, 0xE6, 0xF4, 0xFA, 0xF4, 0xEB, 0xFD])  # mov al,V; out 0xf4,al; cli; hlt; jmp back
    start = _ROM_SIZE - 16
    return bytes(start) + code + bytes(16 - len(code))


def executes(binary: str, accelerator: Accelerator, identity: Identity) -> bool:
    """Whether a guest instruction is executed within two seconds."""
    cpu = "host" if accelerator == "kvm" else "max"
    with _in_memory(rom()) as bios:
        argv = [
            *(binary, "-nodefaults", "-no-user-config", "-display", "none"),
            *("-machine", "q35", "-accel", accelerator, "-cpu", cpu, "-m", "16M"),
            *("-bios", f"/proc/self/fd/{bios}", "-device", "isa-debug-exit,iobase=0xf4,iosize=1"),
        ]
        code = process.exit_code(confined(argv, identity, [_KVM]), timeout=PROBE_SECONDS, inherit=[bios])
    return code == _EXIT_CODE


def kvm_works(binary: str, identity: Identity, memory: Path) -> bool:
    """The probe's answer; a "yes" is remembered in the file `memory` for this boot and this QEMU binary."""
    if not Path(_KVM).exists():
        return False
    stat = Path(binary).resolve().stat()
    key = [process.boot_id(), str(Path(binary).resolve()), stat.st_ino, stat.st_size, stat.st_mtime_ns, os.geteuid()]
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        remembered = json.loads(memory.read_text(encoding="utf-8"))
        if remembered["key"] == key:
            return True
    works = executes(binary, "kvm", identity)
    if works:  # a "no" may be a busy host's, or be mended by the next attempt
        write_atomically(memory, json.dumps({"key": key}).encode())
    return works


def choose(wanted: str, *, kvm: bool, allow_emulation: bool) -> Accelerator:
    """The accelerator for `auto`, `kvm` or `tcg`. Raises PermanentError if it is not to be had or not allowed."""
    if kvm and wanted != "tcg":
        return "kvm"
    if wanted == "kvm" or not allow_emulation:
        found = "KVM was not tried, since tcg was asked for." if wanted == "tcg" else "No guest ran on KVM here."
        raise PermanentError(
            "Virtual machines would be emulated" if wanted != "kvm" else "KVM does not work on this host",
            details=f"{found} QEMU does not promise to keep an emulated guest in.",
            resolution="Use a host with KVM (and access to /dev/kvm), or pass --allow-emulation for code you trust.",
        )
    return "tcg"


@contextlib.contextmanager
def _in_memory(content: bytes) -> Iterator[int]:
    # A file without a name, which another user's QEMU can open through its inherited descriptor.
    descriptor = os.memfd_create("ghvm-probe")
    try:
        os.write(descriptor, content)
        yield descriptor
    finally:
        os.close(descriptor)
