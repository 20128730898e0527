"""The QEMU command line as a pure function of what to launch (options as of QEMU 7.2)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ghrunner_vm.vm.base import Accelerator, Arch, TapNetwork, UserNetwork, VmDescription

AGENT_PORT = "org.ghvm.agent.0"
NETWORK = "net0"
"""QEMU's name of the guest's network."""

_TCG = "tcg,thread=multi,tb-size=256"
# The set of `-sandbox` is a deny-list, the last layer of several. Privileges are dropped before QEMU starts, since
# elevateprivileges=deny forbids QEMU's own -runas.
_SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


@dataclass(frozen=True)
class _Board:
    """What differs between the architectures."""

    machine: str
    cpu: Mapping[Accelerator, str]
    console: tuple[str, str]


# Everything optional is off: what is not there cannot be attacked, and firmware has less to look at.
_BOARDS: Mapping[Arch, _Board] = {
    "x86_64": _Board(
        machine="q35,vmport=off,smm=off,hpet=off,sata=off,smbus=off,i8042=off,usb=off,graphics=off,"
        "mem-merge=off,dump-guest-core=off",
        # A nested guest is not offered: the vmx and svm instructions are a large surface. Five-level page
        # tables under emulation make Linux 6.1 garble /proc/PID/exe, and static programs abort on that.
        cpu={"kvm": "host,-vmx,-svm", "tcg": "max,svm=off,la57=off"},
        console=("-device", "isa-serial,chardev=console"),
    ),
    "aarch64": _Board(
        # Boards differ in their interrupt controller; a fixed version would not start on some of them.
        machine="virt,gic-version=max,usb=off,graphics=off,mem-merge=off,dump-guest-core=off",
        # Pointer authentication by an algorithm of QEMU's: the architecture's own is slow to emulate.
        cpu={"kvm": "host", "tcg": "max,pauth-impdef=on"},
        console=("-serial", "chardev:console"),
    ),
}


@dataclass(frozen=True)
class Flash:
    """Firmware in a flash chip: the code, and the file that keeps its variables unless the firmware keeps none."""

    code: int
    code_format: str
    variables: int | None = None
    variables_format: str = "raw"

    @property
    def descriptors(self) -> tuple[int, ...]:
        return (self.code,) if self.variables is None else (self.code, self.variables)


@dataclass(frozen=True)
class Rom:
    """Firmware as plain memory."""

    image: int

    @property
    def descriptors(self) -> tuple[int, ...]:
        return (self.image,)


Firmware = Flash | Rom


@dataclass(frozen=True)
class Sockets:
    """Descriptors of QEMU's ends of three connected socket pairs."""

    qmp: int
    agent: int
    console: int


def command_line(binary: str, vm: VmDescription, sockets: Sockets, firmware: Firmware | None = None) -> list[str]:
    """The argv that launches `vm`. It holds no secret and no path of an image: files come as descriptors.

    No firmware means QEMU's own, which on aarch64 can only start a kernel that it is given.
    """
    board = _BOARDS[vm.arch]
    return [
        binary,
        *("-name", f"guest={vm.name},debug-threads=on"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-vga", "none", "-no-reboot"),
        *("-sandbox", _SANDBOX),
        *("-msg", "timestamp=on"),
        *_machine(vm, board),
        *_disk(vm),
        *_firmware(firmware),
        *_boot(vm),
        *_network(vm),
        *_channels(sockets, board),
        *_credentials(vm),
        *("-object", "rng-random,id=rng0,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng0"),
        *("-rtc", "base=utc,clock=host"),
    ]


def _files(vm: VmDescription) -> tuple[int, ...]:
    assert vm.overlay is not None  # noqa: S101 nobody asks QEMU for a machine without a disk of its own
    return (vm.base_disk, vm.overlay)


def inherited(vm: VmDescription, sockets: Sockets, firmware: Firmware | None = None) -> tuple[int, ...]:
    """The only descriptors QEMU may inherit."""
    boot = () if vm.boot is None else (vm.boot.kernel, *(() if vm.boot.initrd is None else (vm.boot.initrd,)))
    chips = () if firmware is None else firmware.descriptors
    tap = (vm.network.device,) if isinstance(vm.network, TapNetwork) else ()
    files = (*_files(vm), *tap, *boot, *chips, *vm.credentials.values(), *vm.held)
    return (sockets.qmp, sockets.agent, sockets.console, *files)


def _machine(vm: VmDescription, board: _Board) -> Sequence[str]:
    accel = _TCG if vm.accelerator == "tcg" else vm.accelerator
    return (
        *("-machine", board.machine, "-accel", accel, "-cpu", board.cpu[vm.accelerator]),
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
    below, above = _files(vm)
    return (
        *("-add-fd", f"fd={below},set=1", "-add-fd", f"fd={above},set=2"),
        *("-object", "iothread,id=io0"),
        *("-blockdev", _json(base), "-blockdev", _json(overlay)),
        *("-device", "virtio-blk-pci,drive=root,serial=ghvm-root,iothread=io0,werror=enospc,bootindex=1"),
    )


def _firmware(firmware: Firmware | None) -> Sequence[str]:
    match firmware:
        case Rom(image=image):
            return ("-bios", f"/proc/self/fd/{image}")
        case Flash():
            return (
                *_chip(0, firmware.code, firmware.code_format, read_only=True),
                *(() if firmware.variables is None else _chip(1, firmware.variables, firmware.variables_format)),
            )
    return ()


def _chip(number: int, descriptor: int, driver: str, *, read_only: bool = False) -> Sequence[str]:
    # No locking: all machines of this host share the code, and each has variables that no one else has.
    file = {"driver": "file", "filename": f"/dev/fdset/{3 + number}", "read-only": read_only, "locking": "off"}
    node = {"driver": driver, "node-name": f"flash{number}", "read-only": read_only, "file": file}
    return (
        *("-add-fd", f"fd={descriptor},set={3 + number}", "-blockdev", _json(node)),
        *("-machine", f"pflash{number}=flash{number}"),
    )


def _boot(vm: VmDescription) -> Sequence[str]:
    if vm.boot is None:
        return ()
    # -kernel takes a name, not a descriptor set: the name is that of the inherited descriptor.
    initrd = () if vm.boot.initrd is None else ("-initrd", f"/proc/self/fd/{vm.boot.initrd}")
    return ("-kernel", f"/proc/self/fd/{vm.boot.kernel}", *initrd, "-append", vm.boot.cmdline)


def _network(vm: VmDescription) -> Sequence[str]:
    # An empty romfile: the network is never booted from.
    card = f"virtio-net-pci,netdev={NETWORK},romfile="
    match vm.network:
        case UserNetwork(ssh_port=port):
            forward = "" if port is None else f",hostfwd=tcp:127.0.0.1:{port}-:22"
            return ("-netdev", f"user,id={NETWORK},ipv6=off{forward}", "-device", card)
        case TapNetwork(device=device, mac=mac, mtu=mtu):
            return ("-netdev", f"tap,id={NETWORK},fd={device}", "-device", f"{card},mac={mac},host_mtu={mtu}")
    return ("-nic", "none")


def _channels(sockets: Sockets, board: _Board) -> Sequence[str]:
    return (
        *("-chardev", f"socket,id=qmp,fd={sockets.qmp}", "-mon", "chardev=qmp,mode=control"),
        *("-chardev", f"socket,id=console,fd={sockets.console}", *board.console),
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
