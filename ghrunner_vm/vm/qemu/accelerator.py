"""Does KVM work here? Proven by running a guest, since neither /dev/kvm nor an ioctl on it proves anything."""

import contextlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from ghrunner_vm import process
from ghrunner_vm.errors import PermanentError
from ghrunner_vm.vm.base import Accelerator, Arch
from ghrunner_vm.vm.cell.command import Cell, in_cell
from ghrunner_vm.vm.jail import Identity, confined
from ghrunner_vm.vm.qemu import memory
from ghrunner_vm.vm.qemu.complaints import unconfined
from ghrunner_vm.vm.qemu.probe import PROBES

PROBE_SECONDS = 2.0
_KVM = "/dev/kvm"
_MAX_OUTPUT = 1 << 16


def executes(binary: str, arch: Arch, accelerator: Accelerator, identity: Identity) -> bool:
    """Whether a guest instruction is executed within two seconds, by a QEMU behind the walls of every machine.

    Raises PermanentError if this host allows no walls.
    """
    probe = PROBES[arch]
    with _in_memory(probe.rom) as bios, _in_memory(b"") as output:
        argv = [
            *(binary, "-nodefaults", "-no-user-config", "-display", "none"),
            *("-accel", accelerator, "-cpu", "host" if accelerator == "kvm" else "max", "-m", "16M"),
            *("-bios", f"/proc/self/fd/{bios}", *probe.options),
        ]
        walled = in_cell(confined(argv, identity, [_KVM]), Cell([_KVM]), binary)
        code = process.exit_code(walled, timeout=PROBE_SECONDS, inherit=[bios], output=output)
        said = os.pread(output, _MAX_OUTPUT, 0)
        if refusal := unconfined(said.decode(errors="replace")):
            raise refusal
        return code == probe.exit_code and probe.output in said


def kvm_works(binary: str, arch: Arch, identity: Identity, remembered: Path) -> bool:
    """The probe's answer; a "yes" is remembered in a file for this boot and this QEMU binary.

    KVM runs guests of the host's own architecture only.
    """
    if arch != platform.machine() or not Path(_KVM).exists():
        return False
    key = [process.boot_id(), *memory.identity(binary), os.geteuid()]
    if memory.recall(remembered, key) is True:
        return True
    works = executes(binary, arch, "kvm", identity)
    if works:  # a "no" may be a busy host's, or be mended by the next attempt
        memory.keep(remembered, key, True)
    return works


def choose(wanted: str, arch: Arch, *, kvm: bool, allow_emulation: bool) -> Accelerator:
    """The accelerator for `auto`, `kvm` or `tcg`. Raises PermanentError if it is not to be had or not allowed."""
    if kvm and wanted != "tcg":
        return "kvm"
    if wanted == "kvm" or not allow_emulation:
        raise PermanentError(
            "Virtual machines would be emulated" if wanted != "kvm" else "KVM does not work on this host",
            details=f"{_found(wanted, arch)} QEMU does not promise to keep an emulated guest in.",
            resolution=f"Use an {arch} host with KVM (and access to /dev/kvm), or pass --allow-emulation for code you "
            "trust.",
        )
    return "tcg"


def _found(wanted: str, arch: Arch) -> str:
    if arch != platform.machine():
        return f"KVM cannot run an {arch} guest on this {platform.machine()} host."
    return "KVM was not tried, since tcg was asked for." if wanted == "tcg" else "No guest ran on KVM here."


@contextlib.contextmanager
def _in_memory(content: bytes) -> Iterator[int]:
    # A file without a name, which another user's QEMU can open through its inherited descriptor.
    descriptor = os.memfd_create("ghvm-probe")
    try:
        os.write(descriptor, content)
        yield descriptor
    finally:
        os.close(descriptor)
