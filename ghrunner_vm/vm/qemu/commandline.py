"""The QEMU command line as a pure function of what to launch (options as of QEMU 7.2)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ghrunner_vm.vm.base import VmDescription

AGENT_PORT = "org.ghvm.agent.0"

# Everything optional is off: what is not there cannot be attacked, and firmware has less to look at.
_X86_MACHINE = (
    "q35,vmport=off,smm=off,hpet=off,sata=off,smbus=off,i8042=off,usb=off,graphics=off,"
    "mem-merge=off,dump-guest-core=off"
)
# The set of `-sandbox` is a deny-list, the last layer of several. Privileges are dropped before QEMU starts, since
# elevateprivileges=deny forbids QEMU's own -runas.
_SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


@dataclass(frozen=True)
class Sockets:
    """Descriptors of QEMU's ends of three connected socket pairs."""

    qmp: int
    agent: int
    console: int


def command_line(binary: str, vm: VmDescription, sockets: Sockets) -> list[str]:
    """The argv that launches `vm`. It holds no secret and no path of an image: files come as descriptors."""
    return [
        binary,
        *("-name", f"guest={vm.name},debug-threads=on"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-vga", "none", "-no-reboot"),
        *("-sandbox", _SANDBOX),
        *("-msg", "timestamp=on"),
        *_machine(vm),
        *_disk(vm),
        *_boot(vm),
        *_network(vm),
        *_channels(sockets),
        *_credentials(vm),
        *("-object", "rng-random,id=rng0,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng0"),
        *("-rtc", "base=utc,clock=host"),
    ]


def inherited(vm: VmDescription, sockets: Sockets) -> tuple[int, ...]:
    """The only descriptors QEMU may inherit."""
    boot = () if vm.boot is None else (vm.boot.kernel, *(() if vm.boot.initrd is None else (vm.boot.initrd,)))
    credentials = vm.credentials.values()
    return (sockets.qmp, sockets.agent, sockets.console, vm.base_disk, vm.overlay, *boot, *credentials, *vm.held)


def _machine(vm: VmDescription) -> Sequence[str]:
    # A nested guest is not offered: the vmx and svm instructions are a large surface. Five-level page
    # tables under emulation make Linux 6.1 garble /proc/PID/exe, and static programs abort on that.
    accel, cpu = {
        "kvm": ("kvm", "host,-vmx,-svm"),
        "tcg": ("tcg,thread=multi,tb-size=256", "max,svm=off,la57=off"),
    }[vm.accelerator]
    return (
        *("-machine", _X86_MACHINE, "-accel", accel, "-cpu", cpu),
        *("-smp", f"{vm.cores},maxcpus={vm.cores},sockets=1,cores={vm.cores},threads=1"),
        *("-m", f"{vm.ram >> 20}M"),
    )


def _disk(vm: VmDescription) -> Sequence[str]:
    # The overlay is thrown away with the VM, so a flush to the platter is wasted. The base is shared by all VMs and
    # immutable, hence no locking. Formats are never probed: a guest could write a header that names a host file.
    throw_away = {"direct": False, "no-flush": True}
    base = {
        "driver": "qcow2",
        "node-name": "base",
        "read-only": True,
        "file": {"driver": "file", "filename": "/dev/fdset/1", "read-only": True, "locking": "off"},
    }
    overlay = {
        "driver": "qcow2",
        "node-name": "root",
        "cache": throw_away,
        "discard": "unmap",
        "detect-zeroes": "unmap",
        "file": {"driver": "file", "filename": "/dev/fdset/2", "cache": throw_away, "discard": "unmap"},
        "backing": "base",
    }
    return (
        *("-add-fd", f"fd={vm.base_disk},set=1", "-add-fd", f"fd={vm.overlay},set=2"),
        *("-object", "iothread,id=io0"),
        *("-blockdev", _json(base), "-blockdev", _json(overlay)),
        *("-device", "virtio-blk-pci,drive=root,serial=ghvm-root,iothread=io0,werror=enospc,bootindex=1"),
    )


def _boot(vm: VmDescription) -> Sequence[str]:
    if vm.boot is None:
        return ()
    # -kernel takes a name, not a descriptor set: the name is that of the inherited descriptor.
    initrd = () if vm.boot.initrd is None else ("-initrd", f"/proc/self/fd/{vm.boot.initrd}")
    return ("-kernel", f"/proc/self/fd/{vm.boot.kernel}", *initrd, "-append", vm.boot.cmdline)


def _network(vm: VmDescription) -> Sequence[str]:
    if vm.network is None:
        return ("-nic", "none")
    forward = "" if vm.network.ssh_port is None else f",hostfwd=tcp:127.0.0.1:{vm.network.ssh_port}-:22"
    # An empty romfile: the network is never booted from.
    return ("-netdev", f"user,id=net0,ipv6=off{forward}", "-device", "virtio-net-pci,netdev=net0,romfile=")


def _channels(sockets: Sockets) -> Sequence[str]:
    return (
        *("-chardev", f"socket,id=qmp,fd={sockets.qmp}", "-mon", "chardev=qmp,mode=control"),
        *("-chardev", f"socket,id=console,fd={sockets.console}", "-device", "isa-serial,chardev=console"),
        *("-device", "virtio-serial-pci,id=serial0,max_ports=2"),
        *("-chardev", f"socket,id=agent,fd={sockets.agent}"),
        *("-device", f"virtserialport,chardev=agent,name={AGENT_PORT}"),
    )


def _credentials(vm: VmDescription) -> Sequence[str]:
    # Not through SMBIOS: systemd before 257 cuts what it reads there at 4 KiB, without a word (systemd PR 33539).
    return [
        word
        for name, descriptor in vm.credentials.items()
        for word in ("-fw_cfg", f"name=opt/io.systemd.credentials/{name},file=/proc/self/fd/{descriptor}")
    ]


def _json(node: Mapping[str, object]) -> str:
    return json.dumps(node, separators=(",", ":"))
