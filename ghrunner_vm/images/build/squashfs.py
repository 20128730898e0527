"""The same files as a squashfs, for engines that put a layer of their own above a base that nobody writes."""

import io
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

from ghrunner_vm import process
from ghrunner_vm.images.build.files import Files
from ghrunner_vm.images.build.tree import Node

_SECONDS = 3600.0
_XATTR = "SCHILY.xattr."
_LARGEST_TIME = (1 << 32) - 1
_TYPES = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
}
# mksquashfs passes over the root of a tar, so it is told the mode; the owner is root. 4.5 does not heed -root-time, but
# makes no time later than that of SOURCE_DATE_EPOCH, which it takes for the time of the file system as well.
_PACK = """
exec env SOURCE_DATE_EPOCH="$2" mksquashfs - "$1" -tar -quiet -no-progress -comp zstd -Xcompression-level 3 \\
    -root-mode "$3" <"$0"
"""


def make(files: Files, target: Path) -> None:
    """Write it; always the same bytes for the same files (mksquashfs(1) of squashfs-tools 4.5 or newer)."""
    process.require("mksquashfs")
    archive = target.with_suffix(".tar")
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT, encoding="utf-8", errors="surrogateescape") as tar:
        for member, node in _members(files):
            tar.addfile(member, _Reader(files.disk.read(node.content)) if member.isreg() else None)
    mode = f"{files.tree.root.mode & 0o7777:o}"
    process.run(["sh", "-c", _PACK, str(archive), str(target), str(files.time), mode], timeout=_SECONDS)
    archive.unlink()


def _members(files: Files) -> Iterator[tuple[tarfile.TarInfo, Node]]:
    first: dict[int, str] = {}
    for path, node in files.tree.walk():
        member = tarfile.TarInfo(_text(path) or ".")
        member.mode, member.mtime = node.mode & 0o7777, min(max(node.mtime, 0), _LARGEST_TIME)
        member.uid, member.gid = node.uid, node.gid
        member.devmajor, member.devminor = node.device
        member.pax_headers = {_XATTR + _text(name): _text(value) for name, value in node.xattrs.items()}
        if id(node) in first:
            member.type, member.linkname = tarfile.LNKTYPE, first[id(node)]
        else:
            first[id(node)] = member.name
            member.type, member.linkname = _TYPES[stat.S_IFMT(node.mode)], _text(node.target)
            member.size = node.content.size
        yield member, node


class _Reader(io.RawIOBase):
    """A file that gives pieces as they come."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        parts: list[bytes] = []
        while size > 0 and (self._left or self._next()):
            parts.append(bytes(self._left[:size]))
            self._left = self._left[size:]
            size -= len(parts[-1])
        return b"".join(parts)

    def _next(self) -> bool:
        self._left = memoryview(next(self._pieces, b""))
        return bool(self._left)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
