"""Kernel modules in the order in which they must be loaded."""

import lzma
import re
from collections.abc import Iterable
from pathlib import Path

import zstandard

from ghrunner_vm.simulator.tiny.packages import Unpacked

WANTED = ("virtio_pci", "virtio_blk", "virtio_net", "virtio_console", "virtio_rng", "ext4", "button")

# A module names what it needs in its .modinfo section (modinfo(8)); the packages come without depmod's tables.
_DEPENDS = re.compile(rb"(?:^|\0)depends=([\w,-]*)\0")


def in_order(unpacked: Unpacked, wanted: Iterable[str] = WANTED) -> dict[str, bytes]:
    """The plain ELF files by name, each after those it depends on; what the kernel has built in is left out."""
    loaded: dict[str, bytes] = {}
    for name in wanted:
        _visit(unpacked, name, loaded)
    return loaded


def _visit(unpacked: Unpacked, name: str, loaded: dict[str, bytes]) -> None:
    file = unpacked.module(name)
    if file is None or name in loaded:
        return
    content = _plain(file)
    match = _DEPENDS.search(content)
    for dependency in match[1].decode().split(",") if match and match[1] else ():
        _visit(unpacked, dependency, loaded)
    loaded[name] = content


def _plain(file: Path) -> bytes:
    content = file.read_bytes()
    if file.suffix == ".xz":
        return lzma.decompress(content)
    if file.suffix == ".zst":
        with zstandard.ZstdDecompressor().stream_reader(content) as reader:
            return reader.read()
    return content
