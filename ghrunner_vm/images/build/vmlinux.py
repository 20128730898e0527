"""The kernel that a compressed one unpacks itself to: what an engine without firmware starts.

On x86_64 that is the ELF file `vmlinux` in a bzImage (the kernel's arch/x86/boot.rst), on aarch64 the plain `Image`,
which distributions compress as a whole (its arch/arm64/booting.rst).
"""

import bz2
import lzma
import struct
import tempfile
import zlib
from collections.abc import Callable, Mapping
from typing import Protocol

import zstandard

from ghrunner_vm import process
from ghrunner_vm.errors import UsageError
from ghrunner_vm.images.manifest import Arch

_ELF = b"\x7fELF"
_MAGIC_AT, _MAGIC = 0x202, b"HdrS"
_SETUP_SECTORS_AT, _PAYLOAD_AT = 0x1F1, 0x248
_VERSION_WITH_PAYLOAD = 0x208
_SECTOR = 512
_ARM_MAGIC_AT, _ARM_MAGIC = 0x38, b"ARM\x64"
_SIZE_BYTES = 4
_LZ4_SECONDS = 120.0


def extract(image: bytes, arch: Arch) -> bytes:
    """The uncompressed kernel. Raises UsageError for what is no kernel of this architecture."""
    kernel = _of_x86(image) if arch == "x86_64" else _of_arm(image)
    if kernel is None:
        raise UsageError(
            f"The image's kernel is none that Firecracker could start on {arch}",
            details="It is neither an uncompressed one nor compressed in a known way.",
            resolution="Install the distribution's kernel, or give another with --kernel, or build with --engine qemu.",
        )
    return kernel


def _of_x86(image: bytes) -> bytes | None:
    if image.startswith(_ELF):
        return image
    payload = _payload(image)
    unpack = None if payload is None else _compression(payload)
    kernel = b"" if payload is None or unpack is None else _unpacked(payload, unpack)
    return kernel if kernel.startswith(_ELF) else None


def _of_arm(image: bytes) -> bytes | None:
    unpack = _compression(image)
    kernel = image if unpack is None else _unpacked(image, unpack)
    return kernel if kernel[_ARM_MAGIC_AT:].startswith(_ARM_MAGIC) else None


def _payload(image: bytes) -> bytes | None:
    """The compressed kernel in a bzImage, without the size that its build adds."""
    if image[_MAGIC_AT : _MAGIC_AT + 4] != _MAGIC or len(image) < _PAYLOAD_AT + 8:
        return None
    (version,) = struct.unpack_from("<H", image, _MAGIC_AT + 4)
    if version < _VERSION_WITH_PAYLOAD:
        return None
    offset, length = struct.unpack_from("<2I", image, _PAYLOAD_AT)
    start = ((image[_SETUP_SECTORS_AT] or 4) + 1) * _SECTOR + offset
    payload = image[start : start + length]
    # In gzip the size belongs to the format; the others get it from the kernel's scripts/Makefile.lib.
    return payload if payload.startswith(b"\x1f\x8b") else payload[:-_SIZE_BYTES]


Unpack = Callable[[bytes], bytes]


def _compression(payload: bytes) -> Unpack | None:
    return next((unpack for magic, unpack in _FORMATS.items() if payload.startswith(magic)), None)


def _unpacked(payload: bytes, unpack: Unpack) -> bytes:
    """What comes out; nothing if it is damaged."""
    try:
        return unpack(payload)
    except (zlib.error, lzma.LZMAError, zstandard.ZstdError, process.CommandFailed, OSError, ValueError):
        return b""


class _Decompressor(Protocol):
    """How Python's own and zstandard's look."""

    @property
    def eof(self) -> bool: ...

    def decompress(self, data: bytes, /) -> bytes: ...


def _whole(decompressor: _Decompressor, payload: bytes) -> bytes:
    content = decompressor.decompress(payload)
    if not decompressor.eof:
        raise ValueError("it ends early")
    return content


def _lz4(payload: bytes) -> bytes:
    """By the program lz4, since its old format (magic 0x184C2102) is what the kernel uses, and libraries pass it by."""
    process.require("lz4")
    with tempfile.NamedTemporaryFile() as file:
        file.write(payload)
        file.flush()
        with process.streamed(["lz4", "-d", "-c", file.name], patience=_LZ4_SECONDS) as output:
            return output.read()


_FORMATS: Mapping[bytes, Unpack] = {
    b"\x1f\x8b": lambda payload: _whole(zlib.decompressobj(wbits=31), payload),
    b"\xfd7zXZ\0": lambda payload: _whole(lzma.LZMADecompressor(lzma.FORMAT_XZ), payload),
    b"\x5d\0\0": lambda payload: _whole(lzma.LZMADecompressor(lzma.FORMAT_ALONE), payload),
    b"BZh": lambda payload: _whole(bz2.BZ2Decompressor(), payload),
    b"\x28\xb5\x2f\xfd": lambda payload: _whole(zstandard.ZstdDecompressor().decompressobj(), payload),
    b"\x02\x21\x4c\x18": _lz4,
}
