"""Extended attributes as ext4 keeps them: behind the inode, or in a block of their own."""

import struct
from collections.abc import Mapping

from ghrunner_vm.errors import UsageError
from ghrunner_vm.images.build.ext4.layout import BLOCK, INODE

_PREFIXES = ((b"user.", 1), (b"trusted.", 4), (b"security.", 6))
_ACLS = {b"system.posix_acl_access": 2, b"system.posix_acl_default": 3}
_MAGIC = 0xEA020000
_HEADER = 32
_ENTRY = 16
_MAX_NAME = 255
_WORD = 0xFFFFFFFF
_USER, _GROUP = 0x02, 0x08
INODE_END = 160
"""Where an inode's own fields end."""


def pack(xattrs: Mapping[bytes, bytes]) -> tuple[bytes, bytes]:
    """What follows the inode's own fields, and the block, or nothing, for the rest. Raises UsageError."""
    known = sorted(found for name, value in xattrs.items() if (found := _known(name, value)) is not None)
    if not known:
        return b"", b""
    if any(length > _MAX_NAME for _, length, _, _ in known):
        raise UsageError("An extended attribute of the image has a name that is too long", details=str(list(xattrs)))
    room = INODE - INODE_END - 4
    if sum(_length(name) + _padded(len(value)) for _, _, name, value in known) + 4 <= room:
        return struct.pack("<I", _MAGIC) + _area(known, room, 0), b""
    if sum(_length(name) + _padded(len(value)) for _, _, name, value in known) + 4 > BLOCK - _HEADER:
        raise UsageError(
            "A file of the image has more extended attributes than ext4 can keep", details=str(list(xattrs))
        )
    hashed = 0
    for _, _, name, value in known:
        hashed = (hashed << 16 ^ hashed >> 16 ^ _hash(name, value)) & _WORD
    header = struct.pack("<4I16x", _MAGIC, 1, 1, hashed)
    return b"", header + _area(known, BLOCK - _HEADER, _HEADER)


def _known(name: bytes, value: bytes) -> tuple[int, int, bytes, bytes] | None:
    """In the order in which they are kept: the number of the prefix, the length of the rest, the rest, the value."""
    if name in _ACLS:
        return _ACLS[name], 0, b"", _acl(value)
    for prefix, number in _PREFIXES:
        if name.startswith(prefix):
            rest = name.removeprefix(prefix)
            return number, len(rest), rest, value
    return None


def _area(known: list[tuple[int, int, bytes, bytes]], room: int, before: int) -> bytes:
    """Entries from the front and values from the end. Values are found from `before` bytes in front of the area on."""
    area = bytearray(room)
    at, end = 0, room
    for number, length, name, value in known:
        end -= _padded(len(value))
        struct.pack_into(
            "<2BH3I", area, at, length, number, before + end if value else 0, 0, len(value), _hash(name, value)
        )
        area[at + _ENTRY : at + _ENTRY + length] = name
        area[end : end + len(value)] = value
        at += _length(name)
    return bytes(area)


def _hash(name: bytes, value: bytes) -> int:
    """As fs/ext4/xattr.c hashes one."""
    hashed = 0
    for letter in name:
        hashed = (hashed << 5 & _WORD) ^ hashed >> 27 ^ letter
    padded = value.ljust(_padded(len(value)), b"\0")
    for (word,) in struct.iter_unpack("<I", padded):
        hashed = (hashed << 16 & _WORD) ^ hashed >> 16 ^ word
    return hashed


def _acl(value: bytes) -> bytes:
    """From the form of the system calls (version 2) to the disk's (version 1), where only users and groups have ids."""
    entries = struct.iter_unpack("<2HI", value[4 : 4 + (len(value) - 4) // 8 * 8])
    packed = (
        struct.pack("<2HI", tag, mode, who) if tag in (_USER, _GROUP) else struct.pack("<2H", tag, mode)
        for tag, mode, who in entries
    )
    return struct.pack("<I", 1) + b"".join(packed)


def _length(name: bytes) -> int:
    return _ENTRY + _padded(len(name))


def _padded(size: int) -> int:
    return -(-size // 4) * 4
