"""The kernel that an image brings along, its modules, and what it can do."""

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ghrunner_vm.errors import UsageError
from ghrunner_vm.images.build.files import Files

_VERSION = re.compile(r"\d+\.\d+[\w.+~-]*", re.ASCII)
_MODULE = re.compile(r"(.+)\.ko(\.(xz|zst|gz))?")
_INTERPRETER = struct.pack("<I", 3)
_ELF_HEADER_BYTES = 64
_BUSYBOXES = ("bin/busybox", "usr/bin/busybox", "sbin/busybox", "usr/sbin/busybox", "bin/busybox.static")
_NEEDED = {
    "VIRTIO_PCI": "virtio_pci",
    "VIRTIO_BLK": "virtio_blk",
    "VIRTIO_NET": "virtio_net",
    "VIRTIO_CONSOLE": "virtio_console",
    "EXT4_FS": "ext4",
}
"""Options without which a machine finds neither its disk, nor its network, nor its agent's channel."""
_DOCKER_NEEDS = {
    "BRIDGE": "bridge",
    "VETH": "veth",
    "OVERLAY_FS": "overlay",
    "NF_NAT": "nf_nat",
    "NF_CONNTRACK": "nf_conntrack",
    "NF_TABLES": "nf_tables",
    "NETFILTER_XT_MATCH_ADDRTYPE": "xt_addrtype",
    "NETFILTER_XT_TARGET_MASQUERADE": "xt_MASQUERADE",
    "BRIDGE_NETFILTER": "br_netfilter",
}
"""Options of the kernel that Docker's bridge, its DNS and its layers need, and the modules that they are in."""


@dataclass(frozen=True)
class Kernel:
    """A kernel: its bytes, its configuration if it is known, and where its modules are in the image."""

    version: str
    image: bytes
    config: bytes | None
    modules: dict[str, str] = field(default_factory=dict)
    """Paths by the modules' names, with underscores."""

    def can(self, option: str, module: str) -> bool:
        """Whether it has an option built in or as a module."""
        lines = (self.config or b"").decode("ascii", "replace").splitlines()
        return module in self.modules or any(line in (f"CONFIG_{option}=y", f"CONFIG_{option}=m") for line in lines)


def find(files: Files, given: Path | None) -> Kernel:
    """The newest kernel of the image, or the one in a file beside it. Raises UsageError when there is none."""
    beside = None if given is None else _read(given)
    versions = sorted((name for name in files.names("lib/modules") if _VERSION.fullmatch(name)), key=_order)
    for version in reversed(versions):
        places = (f"boot/vmlinuz-{version}", f"lib/modules/{version}/vmlinuz")
        image = beside if beside is not None else _first(files, *places)
        if image is not None:
            config = _first(files, f"boot/config-{version}", f"lib/modules/{version}/config")
            return Kernel(version, image, config, _modules(files, f"lib/modules/{version}"))
    if beside is not None:
        return Kernel("given", beside, None)
    raise UsageError(
        "The image has no kernel",
        details="There is no /boot/vmlinuz-VERSION with its /lib/modules/VERSION.",
        resolution="Install one in its Dockerfile: linux-image-cloud-amd64 on Debian, linux-image-virtual on Ubuntu, "
        "kernel-core on Fedora. Or give one with --kernel.",
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"The kernel {path} cannot be read: {error.strerror}") from error


def check(kernel: Kernel) -> None:
    """Raises UsageError for a kernel that is known not to boot here."""
    lacks = [] if kernel.config is None else _lacking(kernel, _NEEDED)
    if lacks:
        raise UsageError(
            f"The kernel {kernel.version} of the image cannot run in a virtual machine: it has no {', '.join(lacks)}",
            resolution="Install a kernel for virtual machines in its Dockerfile: linux-image-cloud-amd64 on Debian, "
            "linux-image-virtual on Ubuntu.",
        )


def busybox(files: Files) -> bytes:
    """The image's busybox that needs no libraries. Raises UsageError when it has none."""
    for path in _BUSYBOXES:
        found = files.read(path)
        if found is not None and is_static(found):
            return found
    raise UsageError(
        "The image has no busybox that its small initrd can be made of",
        details=f"Looked for a static one at /{', /'.join(_BUSYBOXES)}.",
        resolution="Install busybox-static (Debian, Ubuntu) or busybox (Fedora) in its Dockerfile.",
    )


def is_static(program: bytes) -> bool:
    """Whether an ELF program asks for no interpreter (elf(5), PT_INTERP)."""
    if not program.startswith(b"\x7fELF\x02\x01") or len(program) < _ELF_HEADER_BYTES:
        return False
    (start,), (size, count) = struct.unpack_from("<Q", program, 32), struct.unpack_from("<2H", program, 54)
    headers = (program[at : at + 4] for at in range(start, start + count * size, size or 1))
    return _INTERPRETER not in headers


def docker_lacks(files: Files, kernel: Kernel) -> list[str]:
    """What Docker in this image would miss in this kernel, by the options' names."""
    return _lacking(kernel, _DOCKER_NEEDS) if files.has("usr/bin/dockerd") else []


def _lacking(kernel: Kernel, needs: Mapping[str, str]) -> list[str]:
    return [f"CONFIG_{option}" for option, module in needs.items() if not kernel.can(option, module)]


def _first(files: Files, *paths: str) -> bytes | None:
    return next((found for path in paths if (found := files.read(path)) is not None), None)


def _modules(files: Files, directory: str) -> dict[str, str]:
    found: dict[str, str] = {}
    waiting = [directory]
    while waiting:
        where = waiting.pop()
        for name in files.names(where):
            match = _MODULE.fullmatch(name)
            node = files.tree.find(f"{where}/{name}", follow=False)
            if match:
                found[match[1].replace("-", "_")] = f"{where}/{name}"
            elif node is not None and node.is_directory:
                waiting.append(f"{where}/{name}")
    return found


def _order(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]
