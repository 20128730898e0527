"""The kernel that a compressed one unpacks itself to: what an engine without firmware starts.

On x86_64 that is the ELF file `vmlinux` in a bzImage (the kernel's arch/x86/boot.rst), on aarch64 the plain `Image`,
which distributions compress as a whole (its arch/arm64/booting.rst).
"""

import struct

from ghrunner_vm.errors import UsageError
from ghrunner_vm.images.build import compression
from ghrunner_vm.images.build.compression import Damaged
from ghrunner_vm.images.manifest import Arch

_ELF = b"\x7fELF"
_MAGIC_AT, _MAGIC = 0x202, b"HdrS"
_SETUP_SECTORS_AT, _PAYLOAD_AT = 0x1F1, 0x248
_VERSION_WITH_PAYLOAD = 0x208
_SECTOR = 512
_ARM_MAGIC_AT, _ARM_MAGIC = 0x38, b"ARM\x64"
_SIZE_BYTES = 4


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
    kernel = _unpacked(_payload(image))
    return kernel if kernel is not None and kernel.startswith(_ELF) else None


def _of_arm(image: bytes) -> bytes | None:
    kernel = _unpacked(image) or image
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


def _unpacked(content: bytes | None) -> bytes | None:
    """What comes out; None if that is nothing."""
    try:
        return None if content is None else compression.unpacked(content)
    except Damaged:
        return None
