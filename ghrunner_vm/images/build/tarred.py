"""Reads a tar into the files of an image, while it flows: nothing of it is ever unpacked on this host."""

import contextlib
import stat
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BufferedReader
from typing import BinaryIO, cast

import zstandard

from ghrunner_vm.errors import UsageError
from ghrunner_vm.images.build.ext4.disk import Source
from ghrunner_vm.images.build.files import Files, Owner
from ghrunner_vm.images.build.tree import MAX_PATH_BYTES, Node, parts, printable
from ghrunner_vm.units import format_size

_BUFFER = 1 << 20
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_XATTR = "SCHILY.xattr."
_TYPES = {
    tarfile.REGTYPE: stat.S_IFREG,
    tarfile.AREGTYPE: stat.S_IFREG,
    tarfile.CONTTYPE: stat.S_IFREG,
    tarfile.GNUTYPE_SPARSE: stat.S_IFREG,
    tarfile.DIRTYPE: stat.S_IFDIR,
    tarfile.SYMTYPE: stat.S_IFLNK,
    tarfile.CHRTYPE: stat.S_IFCHR,
    tarfile.BLKTYPE: stat.S_IFBLK,
    tarfile.FIFOTYPE: stat.S_IFIFO,
}

_IDS = range(1 << 32)
_MAJORS, _MINORS = range(1 << 12), range(1 << 20)
_TIMES = -(1 << 31), (1 << 34) - (1 << 31) - 1
_LARGEST_TIME = (1 << 32) - 1
"""Of a whole file system, which has less room for it than a file."""

Keep = Callable[[list[bytes]], bool]
"""Whether a path, given by its names, belongs to the image."""


@dataclass(frozen=True)
class Read:
    """What a tar had: how many files, bytes of content, and the newest time of a change."""

    members: int
    size: int
    newest: int


def read(
    source: BufferedReader,
    files: Files,
    *,
    keep: Keep = lambda _names: True,
    below: bytes = b"",
    owner: Owner | None = None,
    progress: Callable[[int], None] = lambda _bytes: None,
) -> Read:
    """Add what a tar holds; compressed with gzip, bzip2, xz or zstd if need be.

    `below`: the directory that it is put into. `owner`: whose everything becomes. `progress` hears the bytes of content
    so far. Raises UsageError for what is no tar, or has what cannot be in an image.
    """
    members = size = newest = 0
    try:
        with _opened(source) as tar:
            for member in tar:
                names = parts(_bytes(member.name))
                newest = min(max(newest, _time(member)), _LARGEST_TIME)
                if names and not keep(names):
                    continue
                _add(files, tar, member, below, owner)
                members += 1
                size += member.size if member.isreg() else 0
                progress(size)
        while source.read(_BUFFER):  # to the end of the stream: only there it shows whether its writer ended well
            continue
    except (tarfile.TarError, EOFError, zstandard.ZstdError, OSError, ValueError) as error:
        if getattr(error, "errno", None) is not None:  # a full disk, say; gzip's errors are of this kind, too
            raise
        raise UsageError("This is not a whole tar", details=str(error)) from error
    return Read(members, size, newest)


@contextlib.contextmanager
def _opened(source: BufferedReader) -> Iterator[tarfile.TarFile]:
    stream: BinaryIO = source
    if source.peek(len(_ZSTD_MAGIC)).startswith(_ZSTD_MAGIC):
        stream = cast("BinaryIO", zstandard.ZstdDecompressor().stream_reader(source, read_across_frames=True))
    with tarfile.open(fileobj=stream, mode="r|*", bufsize=_BUFFER, encoding="utf-8", errors="surrogateescape") as tar:
        yield tar


def _add(files: Files, tar: tarfile.TarFile, member: tarfile.TarInfo, below: bytes, owner: Owner | None) -> None:
    path, leads = (below + b"/" + _bytes(name) for name in (member.name, member.linkname))
    if member.type == tarfile.LNKTYPE:
        target = files.tree.find(leads, follow=False)
        if target is None or target.is_directory:
            raise UsageError("A hard link leads nowhere", details=f"{printable(path)} to {printable(leads)}")
        files.tree.add(path, target)
        return
    if member.type not in _TYPES:
        raise UsageError("This kind of file cannot be in an image", details=printable(path))
    whose, device = owner or Owner(member.uid, member.gid), (member.devmajor, member.devminor)
    if whose.uid not in _IDS or whose.gid not in _IDS or device[0] not in _MAJORS or device[1] not in _MINORS:
        raise UsageError("A file has numbers that no file system can hold", details=printable(path))
    node = Node(
        _TYPES[member.type] | member.mode & 0o7777,
        *(whose.uid, whose.gid, _time(member)),
        xattrs=_xattrs(member),
        target=_target(path, _bytes(member.linkname)) if member.issym() else b"",
        device=device,
    )
    if node.is_file:
        if member.size > files.disk.size:  # also if it is nearly all holes: nobody waits for terabytes of zeros
            raise UsageError(
                f"A file is larger than the disk: {printable(path)}, {format_size(member.size)}",
                resolution="Leave it out of the image, or make --size larger.",
            )
        content = tar.extractfile(member)
        node.content = files.disk.store(cast("Source", content))
    files.tree.add(path, node)


def _target(path: bytes, target: bytes) -> bytes:
    if not target or b"\0" in target or len(target) > MAX_PATH_BYTES:
        raise UsageError("A symbolic link cannot be written", details=f"{printable(path)} to {printable(target)[:400]}")
    return target


def _time(member: tarfile.TarInfo) -> int:
    """Also of what is infinitely late; raises ValueError for what is no time."""
    return int(min(max(member.mtime, _TIMES[0]), _TIMES[1]))


def _xattrs(member: tarfile.TarInfo) -> dict[bytes, bytes]:
    headers = member.pax_headers.items()
    return {_bytes(name.removeprefix(_XATTR)): _bytes(value) for name, value in headers if name.startswith(_XATTR)}


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
