"""Builds the tiny image as a bundle: disk, kernel, initrd and manifest."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from ghrunner_vm import __version__, process
from ghrunner_vm.files import lock
from ghrunner_vm.images.build import initrd
from ghrunner_vm.simulator.tiny import packages
from ghrunner_vm.simulator.tiny.apt import apt

NAME = "ghvm-demo"
RUNNER_ROOT = "opt/actions-runner"
_DISK = "256M"
_CONSOLES: Mapping[str, str] = {"x86_64": "ttyS0", "aarch64": "ttyAMA0"}
ARCHITECTURES = tuple(_CONSOLES)
_PROGRAMS = ("bin", "sbin", "usr/bin", "usr/sbin")
_DIRECTORIES = (*_PROGRAMS, "dev", "proc", "sys", "run", "root", "tmp", "home/runner", "etc/init.d")

_SETTINGS: Mapping[str, str] = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nrunner:x:1000:1000:runner:/home/runner:/bin/sh\n",
    "etc/group": "root:x:0:\nrunner:x:1000:\n",
    "etc/resolv.conf": "nameserver 10.0.2.3\n",
    "etc/hosts": "127.0.0.1 localhost ghvm\n",
    "etc/inittab": (
        "::sysinit:/etc/init.d/rcS\n::once:/usr/lib/ghvm/agent >/dev/console 2>&1\n::ctrlaltdel:/sbin/poweroff -f\n"
    ),
    # The disk is thrown away: nothing is worth an orderly shutdown of init's children.
    "etc/ghvm/agent.conf": 'POWER_OFF="poweroff -f"\n',
}


def name(arch: str) -> str:
    """What the image for an architecture is called."""
    return NAME if arch == "x86_64" else f"{NAME}-{arch}"


def build(cache: Path, arch: str = "x86_64") -> Path:
    """The directory that holds the built bundle, made once for each kernel package, ghvm version and content.

    Nothing of the image is executed, so it may be for another architecture than this host's. Safe to call from several
    processes at once: the second waits for the first.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with lock(cache / "tiny.lock"):
        source = apt(arch, cache)
        names = packages.kernel_packages(arch, source)
        target = cache / f"tiny-{_fingerprint(arch, names)}"
        if not target.exists():
            with tempfile.TemporaryDirectory(dir=cache, prefix=".tiny-") as work:
                _build(packages.unpack(source, names, Path(work) / "unpacked"), arch, Path(work))
                (Path(work) / "bundle").rename(target)
    return target


def _build(unpacked: packages.Unpacked, arch: str, work: Path) -> None:
    bundle = work / "bundle"
    bundle.mkdir()
    shutil.copyfile(unpacked.kernel, bundle / f"{name(arch)}.vmlinuz")
    (bundle / f"{name(arch)}.initrd").write_bytes(initrd.make(unpacked.busybox.read_bytes(), unpacked.module))
    _disk(unpacked, work, bundle / f"{name(arch)}.qcow2")
    (bundle / f"{name(arch)}.json").write_text(json.dumps(_manifest(bundle, arch), indent=2), encoding="utf-8")


def _disk(unpacked: packages.Unpacked, work: Path, target: Path) -> None:
    root = work / "root"
    for path in (*_DIRECTORIES, f"{RUNNER_ROOT}/bin"):
        (root / path).mkdir(parents=True)
    _program(root / "bin/busybox", unpacked.busybox.read_bytes())
    for first in ("bin/sh", "sbin/init"):  # rcS makes the other links: busybox itself knows which
        (root / first).symlink_to("/bin/busybox")
    for path, content in _SETTINGS.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content, encoding="utf-8")
    _program(root / "etc/init.d/rcS", _own("tiny/rcS"))
    _program(root / "usr/lib/ghvm/agent", files("ghrunner_vm.guest").joinpath("image/agent").read_bytes())
    _program(root / RUNNER_ROOT / "bin/Runner.Listener", _own("guest/Runner.Listener"))
    for writable in ("tmp", "home/runner", RUNNER_ROOT):
        # The builder need not be root, so the runner's user is let in by mode, not by owner.
        (root / writable).chmod(0o1777)
    raw = work / "disk.raw"
    process.run(["mkfs.ext4", "-q", "-L", "ghvm-root", "-m", "0", "-d", str(root), str(raw), _DISK], timeout=60)
    process.run(["qemu-img", "convert", "-O", "qcow2", str(raw), str(target)], timeout=60)


def _program(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(0o755)


def _manifest(bundle: Path, arch: str) -> dict[str, object]:
    roles = {"qcow2": "disk", "vmlinuz": "kernel", "initrd": "initrd"}
    artifacts = {f"{name(arch)}.{suffix}": role for suffix, role in roles.items()}
    boot = {
        "kernel": f"{name(arch)}.vmlinuz",
        "initrd": f"{name(arch)}.initrd",
        "cmdline": f"console={_CONSOLES[arch]} quiet panic=1 net.ifnames=0",
    }
    return {
        "schema": 1,
        "name": name(arch),
        "arch": arch,
        "engine": ["qemu"],
        "agent": 1,
        "runner-version": None,
        "boot": boot,
        "artifacts": {file: _artifact(bundle / file, role) for file, role in artifacts.items()},
    }


def _artifact(file: Path, role: str) -> dict[str, object]:
    content = file.read_bytes()
    return {"role": role, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _own(path: str) -> bytes:
    return files("ghrunner_vm.simulator").joinpath(path).read_bytes()


def _fingerprint(arch: str, names: tuple[str, ...]) -> str:
    init = files("ghrunner_vm.images.build").joinpath("init").read_bytes()
    own = (init, _own("tiny/rcS"), _own("guest/Runner.Listener"), _own("tiny/image.py"))
    agent = files("ghrunner_vm.guest").joinpath("image/agent").read_bytes()
    digest = hashlib.sha256(repr((__version__, arch, names, _SETTINGS)).encode())
    for content in (*own, agent):
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()[:16]
