"""Kernel modules in the order in which they must be loaded."""

import re
from collections.abc import Callable, Iterable

from ghrunner_vm.errors import UsageError
from ghrunner_vm.images.build.compression import Damaged, unpacked

WANTED = ("virtio_pci", "virtio_mmio", "virtio_blk", "virtio_net", "virtio_console", "virtio_rng", "ext4", "button")
"""What a machine needs to find its disk, its network and its agent's channel, and to be told to power off."""

LAYERED = ("squashfs", "overlay", "vmw_vsock_virtio_transport")
"""What one needs besides whose root is a base that others share below a layer of its own, and whose agent has no port
but virtio's sockets."""

Find = Callable[[str], bytes | None]
"""The file of a module by its name, as it is; None if the kernel has it built in (or not at all)."""

# A module names what it needs in its .modinfo section (modinfo(8)); packages may come without depmod's tables.
_DEPENDS = re.compile(rb"(?:^|\0)depends=([\w,-]*)\0")


def in_order(find: Find, wanted: Iterable[str] = WANTED) -> dict[str, bytes]:
    """The plain ELF files by name, each after those it depends on; what the kernel has built in is left out.

    Raises UsageError for modules that cannot be loaded.
    """
    loaded: dict[str, bytes] = {}
    for name in wanted:
        _visit(find, name, loaded, ())
    return loaded


def _visit(find: Find, name: str, loaded: dict[str, bytes], above: tuple[str, ...]) -> None:
    if name in above:
        raise UsageError("The kernel's modules need each other", details=" -> ".join((*above, name)))
    if name in loaded:
        return
    file = find(name)
    if file is None:
        return
    content = _plain(name, file)
    match = _DEPENDS.search(content)
    for dependency in match[1].decode().split(",") if match and match[1] else ():
        _visit(find, dependency, loaded, (*above, name))
    loaded[name] = content


def _plain(name: str, file: bytes) -> bytes:
    try:
        found = unpacked(file)
    except Damaged as error:
        raise UsageError(f"The kernel's module {name} is damaged", details=str(error)) from error
    return file if found is None else found
