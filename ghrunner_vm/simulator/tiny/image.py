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
from ghrunner_vm.simulator.tiny import cpio, modules, packages

NAME = "ghvm-demo"
RUNNER_ROOT = "opt/actions-runner"
_DISK = "256M"
_CMDLINE = "console=ttyS0 quiet panic=1 net.ifnames=0"

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


def build(cache: Path, arch: str = "x86_64") -> Path:
    """The directory that holds the built bundle, made once for each kernel package, ghvm version and content.

    Safe to call from several processes at once: the second waits for the first.
    """
    names = packages.kernel_packages(arch)
    target = cache / f"tiny-{_fingerprint(names)}"
    cache.mkdir(parents=True, exist_ok=True)
    with lock(cache / "tiny.lock"):
        if not target.exists():
            with tempfile.TemporaryDirectory(dir=cache, prefix=".tiny-") as work:
                _build(names, arch, Path(work))
                (Path(work) / "bundle").rename(target)
    return target


def _build(names: tuple[str, ...], arch: str, work: Path) -> None:
    unpacked = packages.unpack(names, work / "unpacked")
    bundle = work / "bundle"
    bundle.mkdir()
    shutil.copyfile(unpacked.kernel, bundle / f"{NAME}.vmlinuz")
    (bundle / f"{NAME}.initrd").write_bytes(_initrd(unpacked))
    _disk(unpacked, work, bundle / f"{NAME}.qcow2")
    (bundle / f"{NAME}.json").write_text(json.dumps(_manifest(bundle, arch), indent=2), encoding="utf-8")


def _initrd(unpacked: packages.Unpacked) -> bytes:
    loaded = modules.in_order(unpacked)
    order = "\n".join(loaded).encode()
    return cpio.archive(
        [
            *(cpio.directory(name) for name in ("bin", "dev", "root", "modules")),
            cpio.program("bin/busybox", unpacked.busybox.read_bytes()),
            cpio.program("init", _own("tiny/init")),
            cpio.Member("modules/order", order),
            *(cpio.Member(f"modules/{name}.ko", content) for name, content in loaded.items()),
        ]
    )


def _disk(unpacked: packages.Unpacked, work: Path, target: Path) -> None:
    root = work / "root"
    for name in ("bin", "dev", "proc", "sys", "run", "root", "tmp", "home/runner", "etc/init.d", f"{RUNNER_ROOT}/bin"):
        (root / name).mkdir(parents=True)
    _program(root / "bin/busybox", unpacked.busybox.read_bytes())
    for applet in process.run([str(unpacked.busybox), "--list-full"], timeout=30).split():
        link = root / applet
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to("/bin/busybox")
    for name, content in _SETTINGS.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content, encoding="utf-8")
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
    artifacts = {
        f"{NAME}.{suffix}": {
            "role": role,
            "size": (bundle / f"{NAME}.{suffix}").stat().st_size,
            "sha256": hashlib.sha256((bundle / f"{NAME}.{suffix}").read_bytes()).hexdigest(),
        }
        for suffix, role in roles.items()
    }
    boot = {"kernel": f"{NAME}.vmlinuz", "initrd": f"{NAME}.initrd", "cmdline": _CMDLINE}
    return {
        "schema": 1,
        "name": NAME,
        "arch": arch,
        "engine": ["qemu"],
        "agent": 1,
        "runner-version": None,
        "boot": boot,
        "artifacts": artifacts,
    }


def _own(name: str) -> bytes:
    return files("ghrunner_vm.simulator").joinpath(name).read_bytes()


def _fingerprint(names: tuple[str, ...]) -> str:
    own = (_own("tiny/init"), _own("tiny/rcS"), _own("guest/Runner.Listener"), _own("tiny/image.py"))
    agent = files("ghrunner_vm.guest").joinpath("image/agent").read_bytes()
    digest = hashlib.sha256(repr((__version__, names, _SETTINGS)).encode())
    for content in (*own, agent):
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()[:16]
