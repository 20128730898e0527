"""What a container's file system looks like as a tar: the least that ghvm makes a machine of, and what is odd."""

import io
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BufferedReader
from typing import cast

TIME = 1_700_000_000
VERSION = "6.1.0-40-cloud-amd64"
STATIC = (
    b"\x7fELF\x02\x01" + bytes(26) + (64).to_bytes(8, "little") + bytes(14) + (56).to_bytes(2, "little") + bytes(200)
)
"""An ELF program without an interpreter, and without headers."""
MACHINE: Mapping[str, bytes] = {
    "usr/lib/systemd/systemd": b"#!",
    "usr/lib/systemd/systemd-networkd": b"#!",
    "usr/lib/systemd/systemd-udevd": b"#!",
    "usr/sbin/init": b"#!",
    "usr/bin/busybox": STATIC,
    f"boot/vmlinuz-{VERSION}": b"\x7fELF: a kernel",
    f"boot/config-{VERSION}": b"CONFIG_BRIDGE=m\nCONFIG_VETH=y\n# CONFIG_OVERLAY_FS is not set\n"
    b"CONFIG_VIRTIO_PCI=y\nCONFIG_VIRTIO_BLK=y\nCONFIG_VIRTIO_NET=y\nCONFIG_VIRTIO_CONSOLE=m\n",
    f"usr/lib/modules/{VERSION}/kernel/ext4.ko": b"\0depends=jbd2\0",
    f"usr/lib/modules/{VERSION}/kernel/jbd2.ko": b"\0depends=\0",
    "etc/passwd": b"root:x:0:0:root:/root:/bin/bash\nsomebody:x:1000:1000::/:/bin/sh\n",
    "etc/group": b"root:x:0:\nsudo:x:27:\ndocker:x:999:other\n",
    "etc/shadow": b"root:*:19000:0:99999:7:::\n",
}
LINKS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib"}


@dataclass
class Container:
    """A tar in the making."""

    _content: io.BytesIO = field(default_factory=io.BytesIO)
    _tar: tarfile.TarFile = field(init=False)

    def __post_init__(self) -> None:
        # It is closed by `tar`.
        self._tar = tarfile.open(fileobj=self._content, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115

    def machine(self, *, without: str = "") -> "Container":
        """Everything that a machine needs, but for one file."""
        for name, target in LINKS.items():
            self.add(name, type=tarfile.SYMTYPE, linkname=target)
        for name, content in MACHINE.items():
            if name != without:
                self.add(name, content)
        return self

    def add(
        self, name: str, content: bytes = b"", xattrs: Mapping[str, str] | None = None, **more: object
    ) -> "Container":
        """One more member; `more` are fields of tarfile.TarInfo."""
        member = tarfile.TarInfo(name)
        member.size, member.mtime = len(content), TIME
        member.pax_headers = {f"SCHILY.xattr.{key}": value for key, value in (xattrs or {}).items()}
        for key, value in more.items():
            setattr(member, key, value)
        self._tar.addfile(member, io.BytesIO(content))
        return self

    def sparse(self, name: str, size: int) -> "Container":
        """A file that is said to be so long, and is one hole (GNU tar's format, pax version 0.1)."""
        headers = {"GNU.sparse.size": str(size), "GNU.sparse.numblocks": "1", "GNU.sparse.map": f"{size},0"}
        return self.add(name, pax_headers=headers)

    def tar(self) -> BufferedReader:
        """All of it, to be read once."""
        self._tar.close()
        return buffered(self._content.getvalue())


def runner() -> bytes:
    """A tarball with a runner in it."""
    return Container().add("./bin/Runner.Listener", b"#!/bin/sh\n", mode=0o755).tar().read()


def buffered(content: bytes) -> BufferedReader:
    """The bytes as a file is read."""
    return BufferedReader(cast("io.RawIOBase", io.BytesIO(content)))
