"""The whole command line of QEMU, word by word, and what the process inherits."""

import dataclasses
import json
from collections.abc import Sequence

import pytest

from ghrunner_vm.vm.base import DirectBoot, UserNetwork, VmDescription
from ghrunner_vm.vm.qemu.commandline import Firmware, Flash, Rom, Sockets, command_line, inherited

SOCKETS = Sockets(qmp=10, agent=11, console=12)
VM = VmDescription(
    name="demo-0001",
    arch="x86_64",
    accelerator="tcg",
    cores=4,
    ram=2 << 30,
    base_disk=20,
    overlay=21,
    boot=DirectBoot(kernel=22, initrd=23, cmdline="console=ttyS0 quiet"),
    network=UserNetwork(),
    held=(30, 31),
)
BASE = {
    "driver": "qcow2",
    "node-name": "base",
    "read-only": True,
    "file": {"driver": "file", "filename": "/dev/fdset/1", "read-only": True, "locking": "off"},
}
ROOT = {
    "driver": "qcow2",
    "node-name": "root",
    "cache": {"direct": False, "no-flush": True},
    "discard": "unmap",
    "detect-zeroes": "unmap",
    "file": {
        "driver": "file",
        "filename": "/dev/fdset/2",
        "cache": {"direct": False, "no-flush": True},
        "discard": "unmap",
    },
    "backing": "base",
}
MACHINE = (
    "q35,vmport=off,smm=off,hpet=off,sata=off,smbus=off,i8042=off,usb=off,graphics=off,"
    "mem-merge=off,dump-guest-core=off"
)
DISK = "virtio-blk-pci,drive=root,serial=ghvm-root,iothread=io0,werror=enospc,bootindex=1"
GOLDEN = [
    "/usr/bin/qemu-system-x86_64",
    *("-name", "guest=demo-0001,debug-threads=on"),
    *("-nodefaults", "-no-user-config"),
    *("-display", "none", "-vga", "none"),
    "-no-reboot",
    *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
    *("-msg", "timestamp=on"),
    *("-machine", MACHINE),
    *("-accel", "tcg,thread=multi,tb-size=256"),
    *("-cpu", "max,svm=off,la57=off"),
    *("-smp", "4,maxcpus=4,sockets=1,cores=4,threads=1"),
    *("-m", "2048M"),
    *("-add-fd", "fd=20,set=1", "-add-fd", "fd=21,set=2"),
    *("-object", "iothread,id=io0"),
    *("-blockdev", BASE, "-blockdev", ROOT),
    *("-device", DISK),
    *("-kernel", "/proc/self/fd/22", "-initrd", "/proc/self/fd/23", "-append", "console=ttyS0 quiet"),
    *("-netdev", "user,id=net0,ipv6=off", "-device", "virtio-net-pci,netdev=net0,romfile="),
    *("-chardev", "socket,id=qmp,fd=10", "-mon", "chardev=qmp,mode=control"),
    *("-chardev", "socket,id=console,fd=12", "-device", "isa-serial,chardev=console"),
    *("-device", "virtio-serial-pci,id=serial0,max_ports=2"),
    *("-chardev", "socket,id=agent,fd=11"),
    *("-device", "virtserialport,chardev=agent,name=org.ghvm.agent.0"),
    *("-object", "rng-random,id=rng0,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng0"),
    *("-rtc", "base=utc,clock=host"),
]


def words(vm: VmDescription, firmware: Firmware | None = None) -> list[object]:
    """The command line; JSON is read, since its layout says nothing."""
    argv = command_line("/usr/bin/qemu-system-x86_64", vm, SOCKETS, firmware)
    return [json.loads(word) if word.startswith("{") else word for word in argv]


def change(vm: VmDescription, **changes: object) -> tuple[list[object], list[object]]:
    """What a changed description takes out of the golden command line, and what it brings in."""
    changed = words(dataclasses.replace(vm, **changes))  # type: ignore[arg-type]  # the fields of the tests below
    return [word for word in GOLDEN if word not in changed], [word for word in changed if word not in GOLDEN]


def test_a_direct_boot_with_user_network_under_emulation() -> None:
    assert words(VM) == GOLDEN


def test_kvm() -> None:
    gone, new = change(VM, accelerator="kvm")
    assert gone == ["tcg,thread=multi,tb-size=256", "max,svm=off,la57=off"]
    assert new == ["kvm", "host,-vmx,-svm"]


def test_ssh_from_the_hosts_loopback_only() -> None:
    gone, new = change(VM, network=UserNetwork(ssh_port=2222))
    assert gone == ["user,id=net0,ipv6=off"]
    assert new == ["user,id=net0,ipv6=off,hostfwd=tcp:127.0.0.1:2222-:22"]


def test_no_network() -> None:
    gone, new = change(VM, network=None)
    assert gone == ["-netdev", "user,id=net0,ipv6=off", "virtio-net-pci,netdev=net0,romfile="]
    assert new == ["-nic"]


ARM = dataclasses.replace(VM, arch="aarch64")


def differing(one: Sequence[object], other: Sequence[object]) -> list[object]:
    """What stands in `one` and not, or less often, in the `other`."""
    more, rest = [], list(other)
    for word in one:
        if word in rest:
            rest.remove(word)
        else:
            more.append(word)
    return more


def test_aarch64() -> None:
    assert differing(GOLDEN, words(ARM)) == [MACHINE, "max,svm=off,la57=off", "isa-serial,chardev=console", "-device"]
    machine = "virt,gic-version=max,usb=off,graphics=off,mem-merge=off,dump-guest-core=off"
    assert differing(words(ARM), GOLDEN) == [machine, "max,pauth-impdef=on", "-serial", "chardev:console"]


def test_aarch64_on_kvm() -> None:
    new = differing(words(dataclasses.replace(ARM, accelerator="kvm")), words(ARM))
    assert new == ["kvm", "host"]


DISK_BOOT = dataclasses.replace(ARM, boot=None)
CODE = {
    "driver": "qcow2",
    "node-name": "flash0",
    "read-only": True,
    "file": {"driver": "file", "filename": "/dev/fdset/3", "read-only": True, "locking": "off"},
}
VARIABLES = {
    "driver": "raw",
    "node-name": "flash1",
    "read-only": False,
    "file": {"driver": "file", "filename": "/dev/fdset/4", "read-only": False, "locking": "off"},
}
CODE_CHIP = ["-add-fd", "fd=40,set=3", "-blockdev", CODE, "-machine", "pflash0=flash0"]
VARIABLES_CHIP = ["-add-fd", "fd=41,set=4", "-blockdev", VARIABLES, "-machine", "pflash1=flash1"]


@pytest.mark.parametrize(
    ("firmware", "chips", "files"),
    [
        (Flash(40, "qcow2", 41, "raw"), [*CODE_CHIP, *VARIABLES_CHIP], (40, 41)),
        (Flash(40, "qcow2"), CODE_CHIP, (40,)),
        (Rom(40), ["-bios", "/proc/self/fd/40"], (40,)),
    ],
)
def test_firmware_in_chips_that_the_machine_inherits(
    firmware: Firmware, chips: list[object], files: tuple[int, ...]
) -> None:
    assert differing(words(DISK_BOOT, firmware), words(DISK_BOOT)) == chips
    assert differing(words(DISK_BOOT), words(DISK_BOOT, firmware)) == []
    assert inherited(DISK_BOOT, SOCKETS, firmware) == (10, 11, 12, 20, 21, *files, 30, 31)


def test_credentials_as_files_of_the_firmware_configuration() -> None:
    gone, new = change(VM, credentials={"gha-jitconfig": 50})
    assert (gone, new) == ([], ["-fw_cfg", "name=opt/io.systemd.credentials/gha-jitconfig,file=/proc/self/fd/50"])
    assert 50 in inherited(dataclasses.replace(VM, credentials={"gha-jitconfig": 50}), SOCKETS)


def test_a_boot_through_firmware() -> None:
    gone, new = change(VM, boot=None)
    assert gone == [
        *("-kernel", "/proc/self/fd/22", "-initrd", "/proc/self/fd/23", "-append", "console=ttyS0 quiet"),
    ]
    assert new == []


def test_a_kernel_without_an_initrd() -> None:
    gone, new = change(VM, boot=DirectBoot(22, None, "console=ttyS0 quiet"))
    assert (gone, new) == (["-initrd", "/proc/self/fd/23"], [])


@pytest.mark.parametrize(("boot", "files"), [(VM.boot, (22, 23)), (DirectBoot(22, None, ""), (22,)), (None, ())])
def test_exactly_what_is_needed_is_inherited(boot: DirectBoot | None, files: tuple[int, ...]) -> None:
    vm = dataclasses.replace(VM, boot=boot)
    assert inherited(vm, SOCKETS) == (10, 11, 12, 20, 21, *files, 30, 31)
