"""The arm64 images that the tests boot: the tiny one, and one without an agent that its own loader boots.

Made from the distribution's packages without root, and without executing anything of them.
"""

import hashlib
import platform
import shutil
from importlib.resources import files
from pathlib import Path

from ghrunner_vm import process
from ghrunner_vm.images.build import cpio, modules
from ghrunner_vm.simulator.tiny import image, packages
from ghrunner_vm.simulator.tiny.apt import Apt, apt
from tests.kept import once

TINY = image.name("aarch64")
PLAIN = "ghvm-arm64-plain"
"""A disk whose EFI system partition holds GRUB, a kernel and a busybox that takes `gha-jitconfig`."""

_INIT = Path(__file__).parent / "arm64-init"
_LISTENER = files("ghrunner_vm.simulator").joinpath("guest/Runner.Listener")
_MODULES = (*modules.WANTED, "qemu_fw_cfg")
_GRUB = """linux /vmlinuz console=ttyAMA0 quiet panic=1 net.ifnames=0
initrd /initrd
boot
"""
_DISK_MIB = 64
_PARTITION_MIB = 1
_SECONDS = 60.0


def build(cache: Path) -> Path:
    """A directory with both, to be served. Safe to call from several processes at once."""
    tiny = image.build(cache, "aarch64")

    def make(work: Path) -> Path:
        images = work / "images"
        shutil.copytree(tiny, images)
        _plain(apt("aarch64", cache), work, images / f"{PLAIN}.qcow2")
        return images

    return once(cache, "arm64", _fingerprint(tiny), make)


def _plain(source: Apt, work: Path, target: Path) -> None:
    names = (*packages.kernel_packages("aarch64", source), "grub-efi-arm64-bin")
    unpacked = packages.unpack(source, names, work / "unpacked")
    start, initrd = work / "grub.cfg", work / "initrd"
    start.write_text(_GRUB, encoding="utf-8")
    initrd.write_bytes(_initrd(unpacked))
    loader = unpacked.root / "usr/lib/grub/arm64-efi/monolithic/grubaa64.efi"
    distribution = platform.freedesktop_os_release()["ID"]
    disk = _partitioned(work)
    within = f"{disk}@@{_PARTITION_MIB}M"
    process.run(["mmd", "-i", within, "EFI", "EFI/BOOT", f"EFI/{distribution}"], timeout=_SECONDS)
    for file, path in {
        loader: "EFI/BOOT/BOOTAA64.EFI",
        start: f"EFI/{distribution}/grub.cfg",
        unpacked.kernel: "vmlinuz",
        initrd: "initrd",
    }.items():
        process.run(["mcopy", "-i", within, str(file), f"::{path}"], timeout=_SECONDS)
    process.run(["qemu-img", "convert", "-O", "qcow2", str(disk), str(target)], timeout=_SECONDS)


def _partitioned(work: Path) -> Path:
    """A disk with an empty EFI system partition."""
    disk = work / "disk.raw"
    with disk.open("wb") as file:
        file.truncate(_DISK_MIB << 20)
    layout = f"label: gpt\nstart={_PARTITION_MIB}MiB, type=uefi"
    process.run(["sh", "-ec", 'printf %s "$0" | sfdisk --quiet disk.raw', layout], timeout=_SECONDS, cwd=work)
    sectors, kib = (_PARTITION_MIB << 20) // 512, (_DISK_MIB - 2 * _PARTITION_MIB) << 10
    process.run(["mkfs.vfat", "-F", "16", f"--offset={sectors}", str(disk), str(kib)], timeout=_SECONDS)
    return disk


def _initrd(unpacked: packages.Unpacked) -> bytes:
    loaded = modules.in_order(unpacked.module, _MODULES)
    programs = ("bin", "sbin", "usr", "usr/bin", "usr/sbin", "runner", "runner/bin")
    return cpio.archive(
        [
            *(cpio.directory(path) for path in (*programs, "dev", "proc", "sys", "tmp", "modules")),
            cpio.program("bin/busybox", unpacked.busybox.read_bytes()),
            cpio.link("bin/sh", "busybox"),
            cpio.program("init", _INIT.read_bytes()),
            cpio.program("runner/bin/Runner.Listener", _LISTENER.read_bytes()),
            cpio.Member("modules/order", "\n".join(loaded).encode()),
            *(cpio.Member(f"modules/{module}.ko", content) for module, content in loaded.items()),
        ]
    )


def _fingerprint(tiny: Path) -> str:
    own = (Path(__file__).read_bytes(), _INIT.read_bytes(), _LISTENER.read_bytes())
    return hashlib.sha256(b"".join((tiny.name.encode(), *own))).hexdigest()[:16]
