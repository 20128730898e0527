"""Full guests without an agent: the distribution with systemd on a partitioned disk that boots its own loader.

The disk is made without loop mounts, and without root where user namespaces are allowed. What is installed comes from
the distribution and the mirror that this host's apt is configured with: Debian 12 on Debian 12.
"""

import hashlib
import platform
import shlex
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from ghrunner_vm import process
from tests.kept import once

DIRECT = "debian-direct"
"""Takes the credential `gha-jitconfig`, and heeds `gha-inhibit-shutdown`."""
URL = "debian-url"
"""Fetches its registration from the credential `gha-jitconfig-url`."""

_HOST = platform.freedesktop_os_release()
_UNITS = {DIRECT: "runner-direct.service", URL: "runner-url.service"}
_PACKAGES = ("systemd", "systemd-sysv", "udev", "dbus", "curl", "busybox-static", "initramfs-tools")
_KERNELS = {"debian": "linux-image-cloud-amd64", "ubuntu": "linux-image-virtual"}
_NOT_INSTALLED = ("doc", "info", "locale", "man")
_GUEST = Path(__file__).parent / "guest"
_LISTENER = Path(str(files("ghrunner_vm.simulator"))) / "guest/Runner.Listener"
_GRUB = Path("/usr/lib/grub/i386-pc")
_GRUB_MODULES = ("biosdisk", "part_msdos", "ext2", "linux")
_ROOT = "/opt/actions-runner"
_LABEL = "debian"
_SECTOR = 512
_PARTITION_SECTOR = 2048
_DISK_MIB = 768
_INSTALL_SECONDS = 500.0
_SECONDS = 120.0

_UNPACK_AND_FORMAT = """
mkdir root
tar -xf root.tar -C root --exclude='./dev/*'
mkfs.ext4 -q -L "$1" -m 0 -O '^metadata_csum_seed,^orphan_file' -d root -E "offset=$2" disk.raw "$3"
"""


def build(cache: Path) -> Path:
    """A directory with the disks, to be served. Made once for each content of this module.

    Safe to call from several processes at once: the second waits for the first.
    """
    mirrors = sources()

    def make(work: Path) -> Path:
        _build(mirrors, work)
        return work / "images"

    return once(cache, "debian", _fingerprint(mirrors), make)


def _build(mirrors: list[str], work: Path) -> None:
    _install(mirrors, work)
    _partition(work)
    (work / "images").mkdir()
    convert = ("qemu-img", "convert", "-c", "-O", "qcow2", "-o", "compression_type=zstd", "-W", "disk.raw")
    for name, unit in _UNITS.items():
        _make_bootable(work, unit)
        process.run([*convert, f"images/{name}.qcow2"], timeout=_SECONDS, cwd=work)


def sources() -> list[str]:
    """This host's own mirrors of its distribution; what others publish for it is left out."""
    line = "deb $(REPO_URI) $(RELEASE) $(COMPONENT)"
    wanted = ["Created-By: Packages", f"Origin: {_HOST['ID'].capitalize()}", "Component: main"]
    targets = process.run(["apt-get", "indextargets", "--format", line, *wanted], timeout=_SECONDS)
    return sorted(set(targets.splitlines()))


def _install(mirrors: list[str], work: Path) -> None:
    """Leaves the guest's tree in root.tar."""
    options = [
        "--variant=minbase",
        f"--include={','.join((*_PACKAGES, _KERNELS[_HOST['ID']]))}",
        *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _NOT_INSTALLED),
        *(f"--customize-hook={hook}" for hook in _hooks()),
    ]
    what = (_HOST["VERSION_CODENAME"], "root.tar", *mirrors)
    process.run(["mmdebstrap", *options, *what], timeout=_INSTALL_SECONDS, cwd=work)


def _hooks() -> Iterator[str]:
    """Shell text that makes a runner of the installed system, whose root is `$1`."""
    yield from (_copy_in(_GUEST / unit, "/etc/systemd/system") for unit in _UNITS.values())
    yield _copy_in(_GUEST / "dhcp.network", "/etc/systemd/network")
    yield f'mkdir -p "$1{_ROOT}/bin"'
    yield _copy_in(_LISTENER, f"{_ROOT}/bin")
    yield f'chroot "$1" useradd --home-dir {_ROOT} runner'
    yield f'chroot "$1" chown -R runner: {_ROOT}'
    yield from (f'ln -s /bin/busybox "$1/usr/local/bin/{applet}"' for applet in ("nc", "wget"))
    yield 'chroot "$1" systemctl --quiet enable systemd-networkd'
    yield f'echo "LABEL={_LABEL} / ext4 noatime 0 0" >"$1/etc/fstab"'
    yield from (f'cp -l "$1"/boot/{file}-* "$1/boot/{file}"' for file in ("vmlinuz", "initrd.img"))


def _copy_in(file: Path, directory: str) -> str:
    return f"copy-in {shlex.quote(str(file))} {directory}"


def _partition(work: Path) -> None:
    """Turns root.tar into disk.raw, one partition with everything."""
    disk = work / "disk.raw"
    with disk.open("wb") as file:
        file.truncate(_DISK_MIB << 20)
    layout = f"label: dos\nstart={_PARTITION_SECTOR}, type=83, bootable"
    process.run(["sh", "-ec", 'echo "$0" | sfdisk --quiet disk.raw', layout], timeout=_SECONDS, cwd=work)
    offset, size = _PARTITION_SECTOR * _SECTOR, f"{_DISK_MIB - 1}M"
    # fakeroot keeps the owners of the files for somebody who is not root.
    command = ["fakeroot", "sh", "-ec", _UNPACK_AND_FORMAT, "sh", _LABEL, str(offset), size]
    process.run(command, timeout=_SECONDS, cwd=work)


def _make_bootable(work: Path, unit: str) -> None:
    """Puts a loader in front of the partition; its kernel command line says which unit is started."""
    cmdline = f"root=LABEL={_LABEL} ro quiet console=ttyS0 systemd.mask=serial-getty@ttyS0 systemd.wants={unit}"
    start = f"set root=(hd0,msdos1)\nlinux /boot/vmlinuz {cmdline}\ninitrd /boot/initrd.img\nboot\n"
    (work / "grub.cfg").write_text(start, encoding="utf-8")
    options = ("-O", "i386-pc", "-p", "/boot/grub", "-c", "grub.cfg", "-o", "core.img")
    process.run(["grub-mkimage", *options, *_GRUB_MODULES], timeout=_SECONDS, cwd=work)
    core = work / "core.img"
    assert core.stat().st_size <= (_PARTITION_SECTOR - 1) * _SECTOR
    with (work / "disk.raw").open("r+b") as disk:
        disk.write((_GRUB / "boot.img").read_bytes()[:440])  # the partition table follows
        disk.seek(_SECTOR)
        disk.write(core.read_bytes())


def _fingerprint(mirrors: list[str]) -> str:
    digest = hashlib.sha256(repr(mirrors).encode())
    for file in (Path(__file__), _LISTENER, *sorted(_GUEST.iterdir())):
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]
