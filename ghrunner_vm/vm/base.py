"""The whole interface between a run and a virtual machine, whatever the engine."""

import socket
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Literal, Protocol

Arch = Literal["x86_64", "aarch64"]
Accelerator = Literal["kvm", "tcg"]


class EndReason(Enum):
    """Why a virtual machine is gone, as far as its engine can tell."""

    POWERED_OFF = "powered off by the guest"
    RESET = "reset by the guest"
    LEFT = "ended by the guest"
    """Powered off or reset: its engine cannot tell."""
    PANICKED = "the guest's kernel panicked"
    KILLED = "killed"
    CRASHED = "the VMM ended unexpectedly"
    DISK_FULL = "the host's disk is full"


@dataclass(frozen=True)
class VmEnd:
    """The end of a virtual machine; `detail` is the VMM's own words, for people."""

    reason: EndReason
    detail: str = ""


@dataclass(frozen=True)
class DirectBoot:
    """Boot this kernel without firmware; the files are open descriptors."""

    kernel: int
    initrd: int | None
    cmdline: str


@dataclass(frozen=True)
class UserNetwork:
    """The VMM's own network stack. `ssh_port` on the host's loopback leads to port 22 of the guest."""

    ssh_port: int | None = None


@dataclass(frozen=True)
class TapNetwork:
    """A network card of the host's: an open tap device with virtio headers, in whatever namespace."""

    device: int
    mac: str
    mtu: int
    name: str
    namespace: int
    """The id of a process in the device's network namespace."""


Network = UserNetwork | TapNetwork


@dataclass(frozen=True)
class VmDescription:
    """What to launch. Descriptors stay the caller's; the VMM inherits them."""

    name: str
    arch: Arch
    accelerator: Accelerator
    cores: int
    ram: int
    """Bytes."""
    base_disk: int
    """Open, read-only, verified: a qcow2 image without a backing file; for Firecracker a squashfs."""
    overlay: int | None
    """Open for reading and writing: what takes what the guest writes, a qcow2 image or for Firecracker an ext4 file
    system. None: the guest keeps it in its memory."""
    boot: DirectBoot | None
    network: Network | None
    credentials: Mapping[str, int] = field(default_factory=dict)
    """Open files that the guest's systemd finds as credentials of these names (at most 28 letters)."""
    held: tuple[int, ...] = ()
    """Locks that the VMM holds as long as it lives."""


class VirtualMachine(Protocol):
    """A launched virtual machine."""

    @property
    def pid(self) -> int:
        """The VMM's process id."""
        ...

    @property
    def started(self) -> int:
        """The VMM's start in clock ticks since boot: with the id it names the process for good."""
        ...

    @property
    def agent(self) -> socket.socket:
        """The host's end of the guest channel: a non-blocking stream."""
        ...

    @property
    def console(self) -> socket.socket:
        """The host's end of the guest's console: a non-blocking stream. It must be read or the guest stalls."""
        ...

    async def power_down(self) -> None:
        """Press the power button. Whether the guest obeys is another matter; never raises."""
        ...

    @property
    def has_ssh(self) -> bool:
        """Whether it leads to the guest's SSH server itself, whatever the network."""
        ...

    async def forward_ssh(self, port: int = 0) -> int:
        """Open a port of the host's loopback (0: any) that leads to port 22 of the guest; gives its number.

        It stays until the end of the machine. QEMU can do so with a UserNetwork, and any port. Raises
        InfrastructureError if none can be opened.
        """
        ...

    async def answers(self) -> bool:
        """Whether the VMM itself answers within a few seconds; false as well once it has ended."""
        ...

    def kill(self) -> None:
        """End the VMM at once."""
        ...

    async def ended(self) -> VmEnd:
        """The end of the machine, whenever it comes."""
        ...


class Engine(Protocol):
    """A kind of VMM."""

    def launch(self, description: VmDescription, directory: Path) -> AbstractAsyncContextManager[VirtualMachine]:
        """Start the machine; it is gone when the block ends. `directory` takes the VMM's own log.

        Raises NotUpError if the VMM ends or stays silent before the guest's first instruction, and InfrastructureError
        if that is for want of memory or of a free port.
        """
        ...
