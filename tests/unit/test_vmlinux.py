"""The uncompressed kernel in a compressed one, whatever it was compressed with."""

import bz2
import gzip
import lzma
import struct

import pytest
import zstandard

from ghrunner_vm.errors import UsageError
from ghrunner_vm.images.build.vmlinux import extract
from ghrunner_vm.process import output

ELF = b"\x7fELF" + b"the kernel itself " * 1000
ARM = bytes(0x38) + b"ARM\x64" + b"the kernel itself " * 1000


def _lz4(content: bytes) -> bytes:
    """The format of old, by the program that the kernel's build uses."""
    with output.streamed(["sh", "-c", 'printf %s "$0" | lz4 -l -c', content.decode()], patience=30) as stream:
        return stream.read()


PACKERS = {
    "gzip": lambda content: gzip.compress(content),
    "xz": lambda content: lzma.compress(content, lzma.FORMAT_XZ, lzma.CHECK_CRC32),
    "lzma": lambda content: lzma.compress(content, lzma.FORMAT_ALONE),
    "bzip2": bz2.compress,
    "zstd": zstandard.ZstdCompressor(write_content_size=False).compress,
    "lz4": _lz4,
}


def bzimage(payload: bytes, *, sized: bool = True, sectors: int = 3) -> bytes:
    """A bzImage (arch/x86/boot.rst) with this payload, behind some code of its own."""
    whole = payload + (struct.pack("<I", len(ELF)) if sized else b"")
    image = bytearray((sectors + 1) * 512)
    image[0x1F1] = sectors
    image[0x202:0x208] = b"HdrS" + struct.pack("<H", 0x20F)
    image[0x248:0x250] = struct.pack("<2I", 64, len(whole))
    return bytes(image) + bytes(64) + whole + b"what follows"


@pytest.mark.parametrize("name", PACKERS)
def test_every_compression_of_the_kernels_build_is_undone(name: str) -> None:
    assert extract(bzimage(PACKERS[name](ELF), sized=name != "gzip"), "x86_64") == ELF


def test_an_uncompressed_kernel_is_taken_as_it_is() -> None:
    assert extract(ELF, "x86_64") == ELF
    assert extract(ARM, "aarch64") == ARM


def test_on_arm_the_file_as_a_whole_is_compressed() -> None:
    assert extract(gzip.compress(ARM), "aarch64") == ARM


@pytest.mark.parametrize(
    "image",
    [
        b"",
        b"given",
        bzimage(b"\x00unknown"),
        bzimage(zstandard.compress(ELF)[:-9]),
        bzimage(gzip.compress(b"no kernel"), sized=False),
        bzimage(gzip.compress(ELF), sized=False)[:0x24A],
    ],
)
def test_what_is_no_kernel_is_refused(image: bytes) -> None:
    with pytest.raises(UsageError, match="none that Firecracker could start"):
        extract(image, "x86_64")


def test_a_kernel_of_another_architecture_is_refused() -> None:
    with pytest.raises(UsageError):
        extract(ELF, "aarch64")
