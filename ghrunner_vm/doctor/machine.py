"""Whether a virtual machine can be started here."""

import platform
import shutil
from pathlib import Path

from ghrunner_vm.doctor.host import accelerator_device
from ghrunner_vm.finding import Finding, failed, ok, warning
from ghrunner_vm.vm.base import Arch
from ghrunner_vm.vm.jail import lease_identity
from ghrunner_vm.vm.qemu import accelerator, version
from ghrunner_vm.vm.qemu.firmware import uefi

_PROGRAMS = {"qemu-img": "qemu-utils", "setpriv": "util-linux"}


def programs() -> Finding:
    """The other programs that every run calls."""
    missing = {program: package for program, package in _PROGRAMS.items() if shutil.which(program) is None}
    if missing:
        packages = " ".join(sorted(set(missing.values())))
        return failed("programs", f"missing: {', '.join(missing)}", f"On Debian and Ubuntu: apt-get install {packages}")
    if absent := [name for name in ("ssh", "ssh-keygen") if shutil.which(name) is None]:
        return warning("programs", f"missing: {', '.join(absent)}", "`ghvm ssh` needs the package openssh-client.")
    return ok("programs", ", ".join([*_PROGRAMS, "ssh"]))


def qemu(arch: Arch, state: Path) -> Finding:
    """QEMU for this architecture, new enough."""
    return ok("QEMU", version.find(arch, state / f"qemu-{arch}.json"))


def firmware(arch: Arch) -> Finding:
    """The firmware that boots disks without a kernel beside them."""
    if arch == "x86_64":
        return ok("firmware", "QEMU brings it")
    with uefi(arch):
        return ok("firmware", f"UEFI for {arch}")


def kvm(arch: Arch, state: Path, identities: Path, base: int, count: int, *, emulate: bool) -> Finding:
    """Whether a guest really runs on KVM. Emulation that was allowed turns a failure into a warning."""
    found = _kvm(arch, state, identities, base, count)
    if found.resolution and emulate:
        return warning(
            "KVM", f"{found.found}: machines will be emulated", f"Only for code you trust. {found.resolution}"
        )
    return found


def _kvm(arch: Arch, state: Path, identities: Path, base: int, count: int) -> Finding:
    if arch != platform.machine():
        advice = "Use a host of that architecture, or --allow-emulation for code that you trust."
        return failed("KVM", f"an {arch} guest cannot run on this {platform.machine()} processor", advice)
    device = accelerator_device()
    if device.resolution:
        return failed("KVM", device.found, device.resolution)
    with lease_identity(identities, base, count) as identity:
        if accelerator.executes(version.find(arch, state / f"qemu-{arch}.json"), arch, "kvm", identity):
            return ok("KVM", "a guest ran")
    advice = "If this host is itself a virtual machine, it needs nested virtualization; else see `dmesg | grep -i kvm`."
    return failed("KVM", "/dev/kvm is there, but no guest runs on it", advice)
