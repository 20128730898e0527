"""The archive format of an initramfs ("newc", Documentation/driver-api/early-userspace/buffer-format.rst in Linux)."""

import stat
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Member:
    """One file, directory or link of the archive; everything belongs to root."""

    path: str
    content: bytes = b""
    mode: int = stat.S_IFREG | 0o644


def directory(path: str) -> Member:
    """An empty directory."""
    return Member(path, mode=stat.S_IFDIR | 0o755)


def program(path: str, content: bytes) -> Member:
    """An executable file."""
    return Member(path, content, stat.S_IFREG | 0o755)


def link(path: str, target: str) -> Member:
    """A symbolic link."""
    return Member(path, target.encode(), stat.S_IFLNK | 0o777)


def archive(members: Iterable[Member]) -> bytes:
    """The bytes of the archive. Parents must come before what lies in them."""
    parts = [_member(number, member) for number, member in enumerate(members, start=1)]
    return b"".join(parts) + _member(0, Member("TRAILER!!!", mode=0))


def _member(inode: int, member: Member) -> bytes:
    name = member.path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(member.mode) else 1
    fields = (inode, member.mode, 0, 0, links, 0, len(member.content), 0, 0, 0, 0, len(name), 0)
    header = b"070701" + b"".join(f"{field:08x}".encode() for field in fields)
    return _padded(header + name) + _padded(member.content)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
