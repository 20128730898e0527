"""Inodes, the extents of their content, and the blocks of directories."""

import stat
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ghrunner_vm.images.build.ext4.layout import BLOCK
from ghrunner_vm.images.build.ext4.xattr import INODE_END
from ghrunner_vm.images.build.tree import Extent, Node

MAX_LINKS = 65_000
"""How many names a file may have; directories may have more, whose count then is one."""
_EXTENTS_FLAG = 0x80000
_EXTENT_MAGIC = 0xF30A
_INLINE_EXTENTS = 4
_BLOCK_EXTENTS = (BLOCK - 12) // 12
FAST_LINK_BYTES = 59
"""The longest target that fits into the inode itself."""
_SMALLEST_TIME, _LARGEST_TIME = -(1 << 31), (1 << 34) - (1 << 31) - 1
_FILE_TYPES = {
    stat.S_IFREG: 1,
    stat.S_IFDIR: 2,
    stat.S_IFCHR: 3,
    stat.S_IFBLK: 4,
    stat.S_IFIFO: 5,
    stat.S_IFSOCK: 6,
    stat.S_IFLNK: 7,
}

StoreBlock = Callable[[bytes], int]
"""Writes one block somewhere and gives its number."""


@dataclass(frozen=True)
class Placed:
    """What a node needs besides its attributes to become an inode."""

    links: int
    size: int
    blocks: int
    """Of the disk, with those that only describe others."""
    map: bytes
    """The 60 bytes that lead to the content."""
    has_extents: bool
    xattr_block: int = 0
    xattrs: bytes = b""


def pack(node: Node, placed: Placed) -> bytes:
    """The 256 bytes of an inode (struct ext4_inode)."""
    time, extra = _time(node.mtime)
    sectors = placed.blocks * BLOCK // 512
    links = 1 if placed.links > MAX_LINKS and node.is_directory else placed.links
    return (
        struct.pack(
            "<2H5I2H3I60s4I4H4x2H6I",
            *(node.mode, node.uid & 0xFFFF, placed.size & 0xFFFFFFFF),
            *(time, time, time, 0),  # read, changed, written, never deleted
            *(node.gid & 0xFFFF, links, sectors & 0xFFFFFFFF, _EXTENTS_FLAG if placed.has_extents else 0, 0),
            placed.map,
            *(0, placed.xattr_block, placed.size >> 32, 0),
            *(sectors >> 32, 0, node.uid >> 16, node.gid >> 16),
            *(INODE_END - 128, 0, extra, extra, extra, time, extra, 0),
        )
        + bytes(4)
        + placed.xattrs
    )


def _time(seconds: int) -> tuple[int, int]:
    """The 32 bits that all kernels read, and the two that count their rounds (until 2446)."""
    seconds = min(max(seconds, _SMALLEST_TIME), _LARGEST_TIME)
    low = (seconds + (1 << 31)) % (1 << 32) - (1 << 31)
    return low & 0xFFFFFFFF, (seconds - low) >> 32 & 3


def device(major: int, minor: int) -> bytes:
    """The map of a device: its number in the old form, or in the new one if it does not fit."""
    if major < 256 and minor < 256:
        return struct.pack("<I", major << 8 | minor).ljust(60, b"\0")
    return struct.pack("<2I", 0, minor & 0xFF | major << 8 | (minor & ~0xFF) << 12).ljust(60, b"\0")


def extent_map(extents: Iterable[Extent], store: StoreBlock) -> bytes:
    """The map of a file with this content; what does not fit into it is stored."""
    entries = [
        (
            extent.logical,
            struct.pack("<I2HI", extent.logical, extent.count, extent.start >> 32, extent.start & 0xFFFFFFFF),
        )
        for extent in extents
    ]
    depth = 0
    while len(entries) > _INLINE_EXTENTS:
        leaves = [entries[at : at + _BLOCK_EXTENTS] for at in range(0, len(entries), _BLOCK_EXTENTS)]
        entries = [
            (leaf[0][0], _index(leaf[0][0], store(_node(leaf, _BLOCK_EXTENTS, depth).ljust(BLOCK, b"\0"))))
            for leaf in leaves
        ]
        depth += 1
    return _node(entries, _INLINE_EXTENTS, depth).ljust(60, b"\0")


def _node(entries: list[tuple[int, bytes]], room: int, depth: int) -> bytes:
    header = struct.pack("<4HI", _EXTENT_MAGIC, len(entries), room, depth, 0)
    return header + b"".join(packed for _, packed in entries)


def _index(logical: int, block: int) -> bytes:
    return struct.pack("<2I2H", logical, block & 0xFFFFFFFF, block >> 32, 0)


def directory_blocks(own: int, parent: int, entries: Iterable[tuple[bytes, int, int]]) -> bytes:
    """The content of a directory: names with their inodes and modes (struct ext4_dir_entry_2)."""
    here = (b".", own, stat.S_IFDIR), (b"..", parent, stat.S_IFDIR)
    blocks: list[bytearray] = []
    last = 0  # where in the last block its last entry begins
    for name, inode, mode in (*here, *entries):
        length = -(-(8 + len(name)) // 4) * 4
        if not blocks or len(blocks[-1]) + length > BLOCK:
            if blocks:
                _fill(blocks[-1], last)
            blocks.append(bytearray())
        last = len(blocks[-1])
        kind = _FILE_TYPES[stat.S_IFMT(mode)]
        blocks[-1] += struct.pack("<IHBB", inode, length, len(name), kind) + name.ljust(length - 8, b"\0")
    _fill(blocks[-1], last)
    return b"".join(blocks)


def _fill(block: bytearray, last: int) -> None:
    """Let the last entry reach to the end of its block."""
    struct.pack_into("<H", block, last + 4, BLOCK - last)
    block.extend(bytes(BLOCK - len(block)))
