"""The disk of the emulated host: the distribution with systemd, QEMU, and a Python environment for ghvm.

Made without loop mounts, and without root where user namespaces are allowed. What is installed comes from the
distribution and the mirror that this host's apt is configured with: Debian 12 on Debian 12.
"""

import hashlib
import platform
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ghrunner_vm import process
from tests.e2e import debian
from tests.kept import once
from tests.kvm import pip

TESTS_LABEL = "ghvm-tests"
"""The file system with the tests, as the disk's fstab names it."""

_DISTRIBUTION = platform.freedesktop_os_release()
_KERNELS = {"debian": "linux-image-cloud-amd64", "ubuntu": "linux-image-virtual"}
_PACKAGES = (
    *("systemd", "systemd-sysv", "udev", "kmod", "dbus", "procps", "initramfs-tools", "zstd"),
    *("python3", "python3-venv", "busybox-static"),
    *(
        "qemu-system-x86",
        "qemu-utils",
        "e2fsprogs",
        "util-linux",
        "openssh-client",
        "iproute2",
        "nftables",
        "slirp4netns",
    ),
)
_NOT_INSTALLED = ("doc", "info", "locale", "man")
_FILES = Path(__file__).parent / "files"
# The modules that the host's own disk needs, instead of all that any disk might.
_INITRD = ("virtio_pci", "virtio_blk", "ext4")
_ENVIRONMENT = "/opt/ghvm"
_DISK = "3G"
_INSTALL_SECONDS = 900.0
_SECONDS = 300.0

_FORMAT = """
mkdir root
tar -xf root.tar -C root --exclude='./dev/*'
cp root/boot/vmlinuz root/boot/initrd.img system/
mkfs.ext4 -q -m 0 -d root disk.raw "$1"
"""


@dataclass(frozen=True)
class System:
    """A directory with the disk and what it is booted with."""

    directory: Path

    @property
    def disk(self) -> Path:
        return self.directory / "disk.qcow2"

    @property
    def kernel(self) -> Path:
        return self.directory / "vmlinuz"

    @property
    def initrd(self) -> Path:
        return self.directory / "initrd.img"


def build(cache: Path) -> System:
    """Made once for each content of this module and each list of Python packages.

    Safe to call from several processes at once: the second waits for the first.
    """
    wheels, sources = pip.wheelhouse(cache), debian.sources()

    def make(work: Path) -> Path:
        _build(wheels, sources, work)
        return work / "system"

    return System(once(cache, "kvm-host", _fingerprint(wheels, sources), make))


def _build(wheels: Path, sources: list[str], work: Path) -> None:
    (work / "system").mkdir()
    _install(wheels, sources, work)
    # fakeroot keeps the owners of the files for somebody who is not root.
    process.run(["fakeroot", "sh", "-ec", _FORMAT, "sh", _DISK], timeout=_SECONDS, cwd=work)
    convert = ("qemu-img", "convert", "-c", "-O", "qcow2", "-o", "compression_type=zstd", "-W")
    process.run([*convert, "disk.raw", "system/disk.qcow2"], timeout=_SECONDS, cwd=work)


def _install(wheels: Path, sources: list[str], work: Path) -> None:
    """Leaves the host's tree in root.tar."""
    options = [
        "--variant=minbase",
        f"--include={','.join((*_PACKAGES, _KERNELS[_DISTRIBUTION['ID']]))}",
        *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _NOT_INSTALLED),
        f"--extract-hook={_initrd()}",
        *(f"--customize-hook={hook}" for hook in _hooks(wheels)),
    ]
    what = (_DISTRIBUTION["VERSION_CODENAME"], "root.tar", *sources)
    process.run(["mmdebstrap", *options, *what], timeout=_INSTALL_SECONDS, cwd=work)


def _initrd() -> str:
    """Before the kernel's package makes its initrd."""
    directory = '"$1/etc/initramfs-tools'
    modules = "\\n".join(_INITRD)
    return (
        f'mkdir -p {directory}/conf.d" && echo MODULES=list >{directory}/conf.d/modules" && '
        f'printf "{modules}\\n" >{directory}/modules"'
    )


def _hooks(wheels: Path) -> Iterator[str]:
    """Shell text that prepares the installed system, whose root is `$1`."""
    yield from (f'cp -l "$1"/boot/{file}-* "$1/boot/{file}"' for file in ("vmlinuz", "initrd.img"))
    yield f'echo "LABEL={TESTS_LABEL} /srv ext4 noatime 0 0" >"$1/etc/fstab"'
    yield f"copy-in {shlex.quote(str(_FILES / 'ghvm-tests.service'))} /etc/systemd/system"
    yield 'chroot "$1" systemctl --quiet enable ghvm-tests.service'
    yield 'chroot "$1" systemctl --quiet mask serial-getty@ttyS0.service getty@tty1.service'
    # Emulated, it would take minutes.
    yield 'mkdir "$1/opt/wheels"'
    yield f"sync-in {shlex.quote(str(wheels))} /opt/wheels"
    yield f'chroot "$1" python3 -m venv {_ENVIRONMENT}'
    install = "install --quiet --no-index --no-deps /opt/wheels/*.whl"
    yield f'chroot "$1" sh -c "{_ENVIRONMENT}/bin/pip {install}"'
    yield 'rm -r "$1/opt/wheels"'


def _fingerprint(wheels: Path, sources: list[str]) -> str:
    digest = hashlib.sha256(repr((wheels.name, sources)).encode())
    for file in (Path(__file__), *sorted(_FILES.iterdir())):
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]
