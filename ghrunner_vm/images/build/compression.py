"""Compressed files of an image, told by how they begin."""

import bz2
import lzma
import tempfile
import zlib
from collections.abc import Callable, Mapping
from typing import Protocol

import zstandard

from ghrunner_vm import process
from ghrunner_vm.process import output

MAX_BYTES = 512 << 20
"""More than any kernel or module has."""
_PIECE = 4 << 10
"""What is put in at once: it may become a hundred thousand times as long."""
_LZ4_SECONDS = 120.0

Unpack = Callable[[bytes], bytes]


class Damaged(ValueError):
    """It is compressed, but not as it should be, or its content is too long."""


def unpacked(content: bytes) -> bytes | None:
    """What comes out; None if it is not compressed in a known way. Raises Damaged, and CommandMissing without lz4."""
    unpack = next((unpack for magic, unpack in _FORMATS.items() if content.startswith(magic)), None)
    if unpack is None:
        return None
    try:
        return unpack(content)
    except (zlib.error, lzma.LZMAError, zstandard.ZstdError, process.CommandFailed, OSError) as error:
        raise Damaged(str(error)) from error


class _Decompressor(Protocol):
    """How Python's own and zstandard's look."""

    @property
    def eof(self) -> bool: ...

    def decompress(self, data: bytes, /) -> bytes: ...


def _whole(decompressor: _Decompressor, content: bytes) -> bytes:
    pieces: list[bytes] = []
    size = 0
    for at in range(0, len(content), _PIECE):
        pieces.append(decompressor.decompress(content[at : at + _PIECE]))
        size += len(pieces[-1])
        _check_size(size)
        if decompressor.eof:
            return b"".join(pieces)
    raise Damaged("it ends early")


def _lz4(content: bytes) -> bytes:
    """By the program lz4, since its old format (magic 0x184C2102) is what the kernel uses, and libraries pass it by."""
    process.require("lz4")
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        with output.streamed(["lz4", "-d", "-c", file.name], patience=_LZ4_SECONDS) as stream:
            found = stream.read(MAX_BYTES + 1)
            _check_size(len(found))
            return found


def _check_size(size: int) -> None:
    if size > MAX_BYTES:
        raise Damaged(f"it is longer than {MAX_BYTES} bytes")


_FORMATS: Mapping[bytes, Unpack] = {
    b"\x1f\x8b": lambda content: _whole(zlib.decompressobj(wbits=31), content),
    b"\xfd7zXZ\0": lambda content: _whole(lzma.LZMADecompressor(lzma.FORMAT_XZ), content),
    b"\x5d\0\0": lambda content: _whole(lzma.LZMADecompressor(lzma.FORMAT_ALONE), content),
    b"BZh": lambda content: _whole(bz2.BZ2Decompressor(), content),
    b"\x28\xb5\x2f\xfd": lambda content: _whole(zstandard.ZstdDecompressor().decompressobj(), content),
    b"\x02\x21\x4c\x18": _lz4,
}
