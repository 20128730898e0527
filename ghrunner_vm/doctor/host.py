"""What the kernel tells of this host. `root` is where its files are, so that a test can show others."""

import os
from pathlib import Path

from ghrunner_vm.finding import Finding, failed, ok, unknown, warning
from ghrunner_vm.spec import Spec
from ghrunner_vm.units import format_size

_NO_LIMIT = 1 << 60


def processors(spec: Spec | None) -> Finding:
    """Enough for the spec."""
    cores = len(os.sched_getaffinity(0))
    if spec is not None and spec.cpu_cores > cores:
        return warning("processors", f"{cores}, the spec wants {spec.cpu_cores}", 'Set a smaller "cpu-cores".')
    return ok("processors", str(cores))


def memory(spec: Spec | None, root: Path = Path("/")) -> Finding:
    """Enough free memory for the spec's machine, also within the limit of our control group."""
    free = min(_available(root), _limit(root))
    if spec is not None and spec.ram > free:
        return warning(
            "memory",
            f"{format_size(free)} are free, the spec wants {format_size(spec.ram)}",
            'End other machines, or set a smaller "ram": the host\'s kernel kills what takes too much.',
        )
    return ok("memory", f"{format_size(free)} are free")


def control_groups(root: Path = Path("/")) -> Finding:
    """Which kind of control groups limits processes here (cgroups(7))."""
    if (root / "sys/fs/cgroup/cgroup.controllers").exists():
        return ok("control groups", "version 2")
    if (root / "sys/fs/cgroup/memory").exists():
        return warning(
            "control groups",
            "version 1",
            "It works, but newer systems have done without since 2021: boot with systemd.unified_cgroup_hierarchy=1.",
        )
    return warning("control groups", "none are mounted", "Nothing limits what a machine takes. Mount cgroup2.")


def swap(root: Path = Path("/")) -> Finding:
    """A guest's memory, secrets included, may be written to swap, where it outlives the guest."""
    areas = [line.split()[0] for line in _lines(root / "proc/swaps")[1:]]
    plain = [area for area in areas if not _encrypted(root, area)]
    if not plain:
        return ok("swap", "none" if not areas else "encrypted or in memory")
    advice = "A job's secrets may stay there: turn it off (swapoff -a, /etc/fstab), or encrypt it."
    return warning("swap", f"on {', '.join(plain)}, not encrypted", advice)


def _encrypted(root: Path, area: str) -> bool:
    name = Path(area).name
    if name.startswith("zram"):
        return True
    kind = root / "sys/block" / name / "dm/uuid"
    return kind.exists() and kind.read_text(encoding="utf-8").startswith("CRYPT-")


def hyperthreads(root: Path = Path("/")) -> Finding:
    """Two guests on one core can measure each other."""
    state = _text(root / "sys/devices/system/cpu/smt/active")
    if state == "1":
        advice = "If jobs that must not learn of each other run at once, turn it off: boot with nosmt."
        return warning("hyperthreads", "on", advice)
    return ok("hyperthreads", "off") if state == "0" else unknown("hyperthreads", "the kernel does not tell")


def shared_memory(root: Path = Path("/")) -> Finding:
    """Memory that is merged tells one guest what another one has."""
    if _text(root / "sys/kernel/mm/ksm/run") == "1":
        return warning("memory merging", "on (KSM)", "Turn it off: echo 2 > /sys/kernel/mm/ksm/run")
    return ok("memory merging", "off")


def flaws(root: Path = Path("/")) -> Finding:
    """Flaws of the processor that the kernel does not work around."""
    directory = root / "sys/devices/system/cpu/vulnerabilities"
    open_ = sorted(path.name for path in directory.glob("*") if (_text(path) or "").startswith("Vulnerable"))
    if open_:
        advice = "Update the processor's microcode and the kernel, and do not boot with mitigations=off."
        return warning("processor flaws", f"open: {', '.join(open_)}", advice)
    return ok("processor flaws", "worked around") if directory.exists() else unknown("processor flaws", "not told")


def accelerator_device(root: Path = Path("/")) -> Finding:
    """Whether /dev/kvm is there and may be used."""
    device = root / "dev/kvm"
    if not device.exists():
        return failed(
            "KVM device",
            "there is no /dev/kvm",
            "Turn virtualization on in the firmware, and load kvm_intel or kvm_amd.",
        )
    if not os.access(device, os.R_OK | os.W_OK):
        return failed(
            "KVM device", "/dev/kvm may not be used", "Add this user to the group that owns it: usermod -aG kvm USER"
        )
    return ok("KVM device", "/dev/kvm")


def _available(root: Path) -> int:
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return _NO_LIMIT


def _limit(root: Path) -> int:
    """What the control group of this process leaves, of version 2 or 1; a huge number if it has no limit."""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            return _number(root / "sys/fs/cgroup" / path.lstrip("/") / "memory.max")
        if "memory" in controllers.split(","):
            return _number(root / "sys/fs/cgroup/memory" / path.lstrip("/") / "memory.limit_in_bytes")
    return _NO_LIMIT


def _number(path: Path) -> int:
    text = _text(path)
    return int(text) if text and text.isdecimal() else _NO_LIMIT


def _lines(path: Path) -> list[str]:
    return (_text(path) or "").splitlines()


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
