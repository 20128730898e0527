"""Where everything lies on the disk, and the two structures that say so: the superblock and the group descriptors."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

BLOCK = 4096
INODE = 256
GROUP_BLOCKS = 8 * BLOCK
"""As many as one block of bitmap has bits."""
GROUP_INODES = 8192
_TABLE_BLOCKS = GROUP_INODES * INODE // BLOCK
_DESCRIPTOR = 32
ROOT_INODE = 2
FIRST_INODE = 11
"""The first that is not reserved: that of lost+found."""
_HASH_SEED = b"one image, bytes"

_COMPAT = 0x8 | 0x20  # ext_attr, dir_index
_INCOMPAT = 0x2 | 0x40  # filetype, extents
_RO_COMPAT = 0x1 | 0x2 | 0x8 | 0x20 | 0x40  # sparse_super, large_file, huge_file, dir_nlink, extra_isize
_MOUNT_OPTIONS = 0x4 | 0x8  # user_xattr, acl
_HALF_MD4 = 1
_SIGNED_HASH = 1


@dataclass(frozen=True)
class Label:
    """What names a file system: 16 bytes each."""

    label: bytes
    uuid: bytes
    time: int
    """When it was made, in seconds since 1970."""


@dataclass(frozen=True)
class Group:
    """One group of blocks; all numbers are those of blocks on the disk."""

    number: int
    first: int
    blocks: int
    block_bitmap: int

    @property
    def inode_bitmap(self) -> int:
        return self.block_bitmap + 1

    @property
    def inode_table(self) -> int:
        return self.block_bitmap + 2

    @property
    def data(self) -> int:
        """The first block after what the group is described with."""
        return self.inode_table + _TABLE_BLOCKS

    @property
    def end(self) -> int:
        return self.first + self.blocks


@dataclass(frozen=True)
class Used:
    """What of a group is in use."""

    free_blocks: int
    free_inodes: int
    directories: int


class Layout:
    """The layout of a disk of `size` bytes."""

    def __init__(self, size: int) -> None:
        self.blocks = size // BLOCK
        # The rest after the last whole group is left out if it is too small to be one.
        if self.blocks > GROUP_BLOCKS and self.blocks % GROUP_BLOCKS < 2 * _TABLE_BLOCKS:
            self.blocks -= self.blocks % GROUP_BLOCKS
        count = -(-self.blocks // GROUP_BLOCKS)
        self.descriptor_blocks = -(-count * _DESCRIPTOR // BLOCK)
        self.groups = [self._group(number) for number in range(count)]
        self.inodes = count * GROUP_INODES

    def group_of(self, inode: int) -> int:
        """The number of the group that an inode is in."""
        return (inode - 1) // GROUP_INODES

    def inode_offset(self, inode: int) -> int:
        """The byte of the disk at which an inode begins."""
        return self.groups[self.group_of(inode)].inode_table * BLOCK + (inode - 1) % GROUP_INODES * INODE

    def copies(self) -> Iterator[Group]:
        """The groups that have a copy of the superblock and the descriptors."""
        return (group for group in self.groups if _has_superblock(group.number))

    def _group(self, number: int) -> Group:
        first = number * GROUP_BLOCKS
        described = 1 + self.descriptor_blocks if _has_superblock(number) else 0
        return Group(number, first, min(GROUP_BLOCKS, self.blocks - first), first + described)

    def superblock(self, group: int, used: list[Used], label: Label) -> bytes:
        """The 1,024 bytes of its copy in a group (struct ext4_super_block)."""
        inodes, blocks = sum(one.free_inodes for one in used), sum(one.free_blocks for one in used)
        start = struct.pack(
            "<13I6H4I2H",
            *(self.inodes, self.blocks, 0, blocks, inodes),
            *(0, 2, 2, GROUP_BLOCKS, GROUP_BLOCKS, GROUP_INODES),  # first block, block and cluster size
            *(0, label.time),  # mounted never, written
            *(0, 0xFFFF, 0xEF53, 1, 1, 0),  # mounts, their limit, magic, clean, on errors go on, minor revision
            *(label.time, 0, 0, 1),  # checked, never again, Linux, revision with features
            *(0, 0),  # reserved blocks are root's
        )
        features = struct.pack("<I2H3I", FIRST_INODE, INODE, group, _COMPAT, _INCOMPAT, _RO_COMPAT)
        names = label.uuid + label.label
        block = bytearray(1024)
        block[: len(start)] = start
        block[84 : 84 + len(features)] = features
        block[104 : 104 + len(names)] = names
        block[236 : 236 + 17] = _HASH_SEED + bytes([_HALF_MD4])
        struct.pack_into("<H", block, 254, _DESCRIPTOR)
        struct.pack_into("<2I", block, 256, _MOUNT_OPTIONS, 0)
        struct.pack_into("<I", block, 264, label.time)
        struct.pack_into("<2HI", block, 348, 32, 32, _SIGNED_HASH)  # extra bytes of inodes
        return bytes(block)

    def descriptors(self, used: list[Used]) -> bytes:
        """All group descriptors (struct ext4_group_desc)."""
        packed = (
            struct.pack(
                "<3I4H12x",
                *(group.block_bitmap, group.inode_bitmap, group.inode_table),
                *(one.free_blocks, one.free_inodes, one.directories, 0),
            )
            for group, one in zip(self.groups, used, strict=True)
        )
        return b"".join(packed)


def _has_superblock(group: int) -> bool:
    """sparse_super: the first two, and the powers of three, five and seven."""
    return group <= 1 or any(_is_power(group, base) for base in (3, 5, 7))


def _is_power(number: int, base: int) -> bool:
    while number % base == 0:
        number //= base
    return number == 1
