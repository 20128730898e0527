"""Kernel modules in the order in which they must be loaded."""

import lzma
import re
import zlib
from collections.abc import Callable, Iterable
from io import BytesIO

import zstandard

from ghrunner_vm.errors import UsageError

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
    content = _opened(name, file)
    match = _DEPENDS.search(content)
    for dependency in match[1].decode().split(",") if match and match[1] else ():
        _visit(find, dependency, loaded, (*above, name))
    loaded[name] = content


def _opened(name: str, file: bytes) -> bytes:
    try:
        return _plain(file)
    except (lzma.LZMAError, zlib.error, zstandard.ZstdError) as error:
        raise UsageError(f"The kernel's module {name} is damaged", details=str(error)) from error


def _plain(content: bytes) -> bytes:
    if content.startswith(b"\xfd7zXZ"):
        return lzma.decompress(content)
    if content.startswith(b"\x1f\x8b"):
        return zlib.decompress(content, wbits=31)
    if content.startswith(b"\x28\xb5\x2f\xfd"):
        with zstandard.ZstdDecompressor().stream_reader(BytesIO(content)) as reader:
            return reader.read()
    return content
