"""All that Firecracker and its jailer are told, word by word."""

import dataclasses
from collections.abc import Mapping
from pathlib import PurePath

import pytest

from ghrunner_vm.errors import UsageError
from ghrunner_vm.vm.base import Arch, DirectBoot, TapNetwork, UserNetwork, VmDescription
from ghrunner_vm.vm.firecracker.commandline import Programs, command_line, jail
from ghrunner_vm.vm.firecracker.configuration import boot_arguments, configuration

PROGRAMS = Programs("/usr/bin/firecracker-v1.16.1", "/usr/bin/jailer")
BASE = PurePath("/var/lib/ghvm/runs/demo-0001/jail")
VM = VmDescription(
    name="demo-0001",
    arch="x86_64",
    accelerator="kvm",
    cores=3,
    ram=(2 << 30) + (512 << 20),
    base_disk=20,
    overlay=21,
    boot=DirectBoot(kernel=22, initrd=23, cmdline="console=ttyS0"),
    network=TapNetwork(24, "02:00:00:00:00:02", 1500, "tap0", 4711),
)
_COMMON = (
    "reboot=k panic=1 pci=off net.ifnames=0 random.trust_cpu=on quiet loglevel=3 swiotlb=noforce 8250.nr_uarts=1 "
    "systemd.show_status=no systemd.gpt_auto=no fsck.mode=skip ghvm.agent=vsock ghvm_root=layers"
)
_CMDLINES: Mapping[Arch, str] = {
    "x86_64": f"console=ttyS0 i8042.noaux i8042.nomux i8042.dumbkbd {_COMMON}",
    "aarch64": f"console=ttyS0 keep_bootcon {_COMMON}",
}
_DISK = {"is_root_device": False, "cache_type": "Unsafe"}
GOLDEN = {
    "boot-source": {"kernel_image_path": "kernel", "initrd_path": "initrd", "boot_args": "console=ttyS0"},
    "machine-config": {"vcpu_count": 3, "mem_size_mib": 2560, "smt": False},
    "drives": [
        {"drive_id": "base", "path_on_host": "base", "is_read_only": True, **_DISK},
        {"drive_id": "scratch", "path_on_host": "scratch", "is_read_only": False, **_DISK},
    ],
    "network-interfaces": [{"iface_id": "net0", "host_dev_name": "tap0", "guest_mac": "02:00:00:00:00:02"}],
    "vsock": {"guest_cid": 3, "uds_path": "vsock"},
    "entropy": {},
}


@pytest.mark.parametrize("arch", ["x86_64", "aarch64"])
def test_the_whole_configuration(arch: Arch) -> None:
    """The same on both: what differs is on the kernel's command line."""
    assert configuration(dataclasses.replace(VM, arch=arch)) == GOLDEN


@pytest.mark.parametrize("arch", ["x86_64", "aarch64"])
def test_the_kernels_command_line(arch: Arch) -> None:
    assert boot_arguments(arch, None) == f"{_CMDLINES[arch]} ghvm_top=disk"
    assert boot_arguments(arch, 1 << 30) == f"{_CMDLINES[arch]} ghvm_top=ram ghvm_top_size={1 << 30}"


def test_a_layer_in_memory_is_no_disk() -> None:
    told = configuration(dataclasses.replace(VM, overlay=None))
    assert told == {**GOLDEN, "drives": GOLDEN["drives"][:1]}  # type: ignore[index]


def test_a_kernel_may_bring_its_drivers_itself() -> None:
    told = configuration(dataclasses.replace(VM, boot=DirectBoot(22, None, "console=ttyS0")))
    assert told["boot-source"] == {"kernel_image_path": "kernel", "boot_args": "console=ttyS0"}


def test_without_a_network_there_is_no_card() -> None:
    assert configuration(dataclasses.replace(VM, network=None))["network-interfaces"] == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cores": 33}, "32 cores at most"),
        ({"boot": None}, "the image has none"),
        ({"network": UserNetwork()}, "no network stack of its own"),
    ],
)
def test_what_it_cannot_do_is_said(change: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        configuration(dataclasses.replace(VM, **change))  # type: ignore[arg-type]


def test_the_whole_command_line() -> None:
    assert command_line(PROGRAMS, VM, BASE, 1_900_000_007) == [
        "/usr/bin/jailer",
        *("--id", "demo-0001", "--exec-file", "/usr/bin/firecracker-v1.16.1"),
        *("--uid", "1900000007", "--gid", "1900000007"),
        *("--chroot-base-dir", "/var/lib/ghvm/runs/demo-0001/jail"),
        *("--netns", "/proc/4711/ns/net"),
        "--",
        *("--config-file", "vm.json", "--api-sock", "run/firecracker.socket"),
    ]


def test_without_a_network_it_joins_no_namespace() -> None:
    assert "--netns" not in command_line(PROGRAMS, dataclasses.replace(VM, network=None), BASE, 5)


def test_where_the_jail_is() -> None:
    assert jail(PROGRAMS, BASE, "demo-0001") == BASE / "firecracker-v1.16.1/demo-0001/root"
