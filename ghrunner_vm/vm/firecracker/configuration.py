"""What Firecracker is told of a machine, as a pure function of what to launch (the file format of 1.12 and newer).

Paths are those in its jail.
"""

from collections.abc import Mapping

from ghrunner_vm.errors import UsageError
from ghrunner_vm.vm.base import Arch, TapNetwork, UserNetwork, VmDescription

BASE, SCRATCH, KERNEL, INITRD = "base", "scratch", "kernel", "initrd"
"""Files in the jail."""
VSOCK = "vsock"
"""The socket by which the host reaches the guest's."""
_MOST_CORES = 32
_GUEST_CID = 3
"""The lowest that a guest may have. Every guest has the same: it is seen by its own VMM alone (vsock.md)."""

_ALWAYS = (
    # Without `reboot=k` an x86 guest would look for ACPI's way to reset, which Firecracker does not have.
    "reboot=k panic=1 pci=off net.ifnames=0 random.trust_cpu=on quiet loglevel=3 swiotlb=noforce 8250.nr_uarts=1 "
    "systemd.show_status=no systemd.gpt_auto=no fsck.mode=skip ghvm.agent=vsock ghvm_root=layers"
)
_OWN: Mapping[Arch, str] = {
    # What probing a keyboard that is hardly there would cost.
    "x86_64": "console=ttyS0 i8042.noaux i8042.nomux i8042.dumbkbd",
    "aarch64": "console=ttyS0 keep_bootcon",
}


def boot_arguments(arch: Arch, ram_layer: int | None) -> str:
    """The kernel's command line. `ram_layer`: the most bytes of a layer in memory; None: it is on the second disk."""
    top = "ghvm_top=disk" if ram_layer is None else f"ghvm_top=ram ghvm_top_size={ram_layer}"
    return f"{_OWN[arch]} {_ALWAYS} {top}"


def configuration(vm: VmDescription) -> Mapping[str, object]:
    """The content of --config-file. Raises UsageError for what Firecracker cannot do."""
    if vm.boot is None:
        raise UsageError("Firecracker starts kernels, and the image has none")
    if vm.cores > _MOST_CORES:
        raise UsageError(
            f"Firecracker gives a machine {_MOST_CORES} cores at most, the spec asks for {vm.cores}",
            resolution='Lower "cpu-cores", or set "engine": "qemu".',
        )
    initrd = {} if vm.boot.initrd is None else {"initrd_path": INITRD}
    return {
        "boot-source": {"kernel_image_path": KERNEL, **initrd, "boot_args": vm.boot.cmdline},
        "machine-config": {"vcpu_count": vm.cores, "mem_size_mib": vm.ram >> 20, "smt": False},
        "drives": [_drive(BASE, read_only=True), *([] if vm.overlay is None else [_drive(SCRATCH, read_only=False)])],
        "network-interfaces": _interfaces(vm),
        "vsock": {"guest_cid": _GUEST_CID, "uds_path": VSOCK},
        "entropy": {},
    }


def _drive(name: str, *, read_only: bool) -> Mapping[str, object]:
    # None is the root device: Firecracker would add that to the command line, and the initrd finds it by itself.
    # Nothing is flushed: the scratch disk is thrown away with the machine.
    return {
        "drive_id": name,
        "path_on_host": name,
        "is_root_device": False,
        "is_read_only": read_only,
        "cache_type": "Unsafe",
    }


def _interfaces(vm: VmDescription) -> list[Mapping[str, object]]:
    match vm.network:
        case TapNetwork(mac=mac, name=name):
            return [{"iface_id": "net0", "host_dev_name": name, "guest_mac": mac}]
        case UserNetwork():
            raise UsageError(
                "Firecracker has no network stack of its own",
                resolution="Leave --network out, or set it to namespace or none.",
            )
    return []
