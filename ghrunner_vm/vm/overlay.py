"""The throw-away disk layer on top of an image."""

import contextlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from ghrunner_vm import process, runs
from ghrunner_vm.errors import PermanentError, UsageError
from ghrunner_vm.units import format_size

_MAGIC = b"QFI\xfb"
# Big-endian: magic, version, backing file offset and length, cluster bits, virtual size, then 40 bytes of tables
# and the feature bits of version 3 (docs/interop/qcow2.txt in QEMU).
_HEADER = struct.Struct(">4sIQIIQ40xQ")
_EXTERNAL_DATA_FILE = 1 << 2
_VERSIONS = (2, 3)


def virtual_size(disk: int) -> int:
    """Bytes of the disk in the open qcow2 image `disk`.

    Raises PermanentError if it is no such image, or one that refers to another file: an image from a server must not
    make the VMM open files of this host.
    """
    header = os.pread(disk, _HEADER.size, 0)
    if len(header) < _HEADER.size or not header.startswith(_MAGIC):
        raise PermanentError("The image's disk is not in the qcow2 format")
    _, version, backing, _, _, size, features = _HEADER.unpack(header)
    if version not in _VERSIONS:
        raise PermanentError(f"The image's disk is in version {version} of the qcow format, not in 2 or 3")
    if backing or (version >= 3 and features & _EXTERNAL_DATA_FILE):
        raise PermanentError(
            "The image's disk refers to another file",
            details="It has a backing file or an external data file.",
            resolution="Publish it flattened: qemu-img convert -O qcow2 IMAGE FLAT.",
        )
    return int(size)


@contextlib.contextmanager
def overlay(directory: Path, base: int, size: int) -> Iterator[int]:
    """An open, empty layer of `size` bytes for the disk `base`; its file is deleted at the end.

    The layer names no backing file: the VMM is told the base by descriptor. Raises UsageError if the image is larger.
    """
    smallest = virtual_size(base)
    if size < smallest:
        raise UsageError(
            f"root-disk is {format_size(size)}, smaller than the image's disk of {format_size(smallest)}",
            resolution=f"Set root-disk in the spec to {-(-smallest >> 20)}M or more.",
        )
    path = directory / runs.DISK
    process.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), str(size)], timeout=60)
    path.chmod(0o600)
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
        path.unlink(missing_ok=True)
