"""The images that the tests boot: the tiny one, and variants of it that misbehave. Made once for each content."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from ghrunner_vm import process
from ghrunner_vm.images.manifest import Manifest
from ghrunner_vm.simulator.tiny import image
from ghrunner_vm.simulator.tiny.apt import apt
from tests.integration.images_site import COMMIT, Site
from tests.kept import once

TINY = image.NAME
ROOT = "ghvm-root"
"""Jobs run as root."""
SILENT = "ghvm-silent"
"""Says that it waits, and does so for ever instead of starting anything."""
PANICKING = "ghvm-panicking"
"""Has no first program."""
RESTARTING = "ghvm-restarting"
"""Restarts as soon as it is up."""
REFUSING = "ghvm-refusing"
"""Sees another hash than the host's on whatever it is given."""
FLOODING = "ghvm-flooding"
"""Fills its channel with garbage as long as its listener runs; its agent is honest."""

SSH = "ghvm-ssh"
"""Jobs run as root, and an SSH server lets root in with the keys that the host hands over."""

_WAITING = "echo waiting for a disk; exec /bin/busybox sleep 100000"
# The agent runs its settings as a part of itself, so they can put functions in the place of programs.
_SETTINGS = 'POWER_OFF="poweroff -f"\n'
_AGENTS = {
    ROOT: "RUNNER_USER=root\n",
    REFUSING: "sha256sum() { echo 0000 -; }\n",
    SSH: (
        "RUNNER_USER=root\nmkdir -p /etc/ssh\nchown root /root\nchmod 700 /root\n"
        "dropbearkey -t ed25519 -f /etc/ssh/key | grep ^ssh- >/etc/ssh/ssh_host_ed25519_key.pub\n"
        "dropbear -r /etc/ssh/key -p 22\n"
    ),
    FLOODING: 'mkfifo() { command mkfifo "$1"; yes garbage >&4 & }\n',
}
_SERVER = ("dropbear-bin", "libtomcrypt1", "libtommath1", "libgmp10", "libcrypt1", "zlib1g", "libc6")
_LIBRARIES = ("libtomcrypt.so.1", "libtommath.so.1", "libgmp.so.10", "libcrypt.so.1", "libz.so.1", "libc.so.6")
_LOADER = "ld-linux-x86-64.so.2"
_SECONDS = 60.0


def build(cache: Path) -> Path:
    """A directory with all of them, to be served. Safe to call from several processes at once."""
    tiny = image.build(cache)

    def make(work: Path) -> Path:
        _build(tiny, work)
        return work / "images"

    return once(cache, "tests", _fingerprint(tiny), make)


def offer(
    site: Site, images: Path, *, name: str = TINY, of: str = TINY, commit: str = COMMIT, damaged: bool = False
) -> Manifest:
    """Put the image `of` on a server, under a name; `damaged`: the disk's last byte is not what the manifest says."""
    text = (images / f"{of}.json").read_text(encoding="utf-8").replace(of, name)
    manifest = Manifest.parse(text.encode())
    artifacts = {file: (images / file.replace(name, of)).read_bytes() for file in manifest.artifacts}
    if damaged:
        disk = artifacts[manifest.disk]
        artifacts[manifest.disk] = disk[:-1] + bytes([disk[-1] ^ 1])
    site.offer_bundle(manifest, artifacts, commit=commit)
    return manifest


def _build(tiny: Path, work: Path) -> None:
    images = work / "images"
    images.mkdir()
    for file in tiny.iterdir():
        shutil.copyfile(file, images / file.name)
    _variant(images, SILENT, cmdline=f'rdinit=/bin/busybox -- sh -c "{_WAITING}"')
    _variant(images, PANICKING, cmdline="rdinit=/nonexistent")
    _variant(images, RESTARTING, cmdline="rdinit=/bin/busybox -- reboot -f")
    for name, settings in _AGENTS.items():
        (work / "agent.conf").write_text(_SETTINGS + settings, encoding="utf-8")
        new = {"/etc/ghvm/agent.conf": work / "agent.conf", **(_dropbear(work) if name == SSH else {})}
        _variant(images, name, disk=partial(_with_files, new=new, work=work))


def _variant(images: Path, name: str, *, cmdline: str = "", disk: Callable[[Path], None] | None = None) -> None:
    """Add a copy of the tiny image under another name, with more on its kernel's command line or another disk."""
    manifest = json.loads((images / f"{TINY}.json").read_text(encoding="utf-8"))
    for artifact in manifest["artifacts"]:
        shutil.copyfile(images / artifact, images / artifact.replace(TINY, name))
    if disk is not None:
        disk(images / f"{name}.qcow2")
    artifacts = {file.replace(TINY, name): _described(images, file, name, manifest) for file in manifest["artifacts"]}
    boot = {key: str(value).replace(TINY, name) for key, value in manifest["boot"].items()}
    boot["cmdline"] = f"{boot['cmdline']} {cmdline}".strip()
    described = {**manifest, "name": name, "boot": boot, "artifacts": artifacts}
    (images / f"{name}.json").write_text(json.dumps(described), encoding="utf-8")


def _described(images: Path, file: str, name: str, manifest: Mapping[str, dict[str, dict[str, object]]]) -> object:
    content = (images / file.replace(TINY, name)).read_bytes()
    facts = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return {**manifest["artifacts"][file], **facts}


def _dropbear(work: Path) -> dict[str, Path]:
    """A small SSH server out of the distribution's packages, and what it is linked with, by their places in a guest."""
    apt("x86_64", work).unpack(_SERVER, work / "server")
    linked = {f"/lib/{library}": _found(work / "server", library) for library in _LIBRARIES}
    loader = {f"/lib64/{_LOADER}": _found(work / "server", _LOADER)}
    programs = {f"/usr/bin/{name}": _found(work / "server", name) for name in ("dropbear", "dropbearkey")}
    return {**linked, **loader, **programs}


def _found(root: Path, name: str) -> Path:
    return next(path.resolve() for path in sorted(root.rglob(name)) if path.is_file())


def _with_files(disk: Path, new: Mapping[str, Path], work: Path) -> None:
    """Put files into the ext4 file system of a disk, as programs."""
    raw, script = work / "disk.raw", work / "script"
    process.run(["qemu-img", "convert", "-O", "raw", str(disk), str(raw)], timeout=_SECONDS)
    places = sorted({str(Path(name).parent) for name in new})
    lines = [f"mkdir {place}" for place in places]  # it says so if there is one
    for name, source in new.items():
        lines += [f"rm {name}", f"write {source} {name}", f"set_inode_field {name} mode 0100755"]
    script.write_text("\n".join(lines) + "\n", encoding="utf-8")
    process.run(["debugfs", "-w", "-f", str(script), str(raw)], timeout=_SECONDS)
    process.run(["qemu-img", "convert", "-O", "qcow2", str(raw), str(disk)], timeout=_SECONDS)


def _fingerprint(tiny: Path) -> str:
    return hashlib.sha256(tiny.name.encode() + Path(__file__).read_bytes()).hexdigest()[:16]
