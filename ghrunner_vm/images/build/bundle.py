"""Puts an image together: from a tar of files to a directory that `serve-images` serves.

    NAME.json                       the manifest, last
    NAME.{digest}.disk, .vmlinuz, …  what it names; a file of an earlier build goes when its manifest is replaced
    .NAME.lock, .NAME-{random}/     who builds, and where; servers pass over them

A crash leaves the earlier image as it was, and files that no manifest names; the next build removes them.
"""

import contextlib
import hashlib
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from ghrunner_vm import process
from ghrunner_vm.errors import UsageError
from ghrunner_vm.files import Locked, lock, sync_directory, write_atomically
from ghrunner_vm.images.build import initrd, kernel, outfit, packages, squashfs, tarred, vmlinux
from ghrunner_vm.images.build.ext4.disk import Disk
from ghrunner_vm.images.build.ext4.finish import finish
from ghrunner_vm.images.build.ext4.layout import Label
from ghrunner_vm.images.build.files import Files
from ghrunner_vm.images.build.kernel import Kernel
from ghrunner_vm.images.build.outfit import Configuration
from ghrunner_vm.images.build.runner import RunnerTarball
from ghrunner_vm.images.build.tree import Tree
from ghrunner_vm.images.manifest import Arch, Artifact, Boot, Engine, Manifest, Role
from ghrunner_vm.images.space import writing

MIN_SIZE = 64 << 20
MAX_SIZE = 4 << 40
"""Beyond 8 TiB what describes all groups would not fit into a small last one."""
_CONSOLES: Mapping[Arch, str] = {"x86_64": "ttyS0", "aarch64": "ttyAMA0"}
_CMDLINE = (
    "console={console} root=/dev/vda rw quiet loglevel=3 panic=1 net.ifnames=0 fsck.mode=skip "
    "systemd.show_status=no systemd.gpt_auto=no random.trust_cpu=on"
)
_ROLES: Mapping[str, Role] = {
    "disk": "disk",
    "vmlinuz": "kernel",
    "initrd": "initrd",
    "config": "kernel-config",
    "squashfs": "base",
    "vmlinux": "vmlinux",
}
_CONVERT_SECONDS = 3600.0

Tell = Callable[[str], None]
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Wanted:
    """What a person asks for. `size` is the disk's in bytes; `kernel` a file to boot instead of the image's own."""

    name: str
    arch: Arch
    size: int
    engines: Sequence[Engine]
    output: Path
    kernel: Path | None = None


def build(
    tar: BufferedReader,
    wanted: Wanted,
    runner: RunnerTarball,
    configuration: Configuration,
    *,
    progress: Progress,
    tell: Tell,
) -> Manifest:
    """Make the image of the container file system that comes as a tar; its manifest, once all is in place.

    `progress` hears the bytes read so far, `tell` what a person should know. Raises UsageError, DiskFull.
    """
    with writing(wanted.output, None, "--output"), _workshop(wanted) as work:
        with (work / "raw").open("w+b") as raw:
            files = _filled(tar, wanted, runner, configuration, Disk(raw.fileno(), wanted.size), progress)
            found = kernel.find(files, wanted.kernel)
            kernel.check(found)
            _tell_of_docker(files, found, tell)
            _write_parts(files, found, wanted, work)
            installed = packages.installed(files)
        if "qemu" in wanted.engines:
            convert = ["qemu-img", "convert", "-q", "-f", "raw", "-O", "qcow2", str(work / "raw"), str(work / "disk")]
            process.run(convert, timeout=_CONVERT_SECONDS)
        (work / "raw").unlink()
        return _publish(work, wanted, runner, found, installed)


@contextlib.contextmanager
def _workshop(wanted: Wanted) -> Iterator[Path]:
    """A directory beside what is to come, ours alone; nobody else builds this image meanwhile."""
    try:
        wanted.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{wanted.output} cannot be made: {error.strerror}") from error
    try:
        with lock(wanted.output / f".{wanted.name}.lock", wait=False):
            for old in _workshops(wanted):
                shutil.rmtree(old, ignore_errors=True)
            with tempfile.TemporaryDirectory(dir=wanted.output, prefix=f".{wanted.name}-") as work:
                yield Path(work)
    except Locked as error:
        raise UsageError(
            f"Another process is building {wanted.name} in {wanted.output}", resolution="Wait until it has ended."
        ) from error


def _workshops(wanted: Wanted) -> list[Path]:
    """What killed builds of this image left; not those of an image whose name only begins as this one's does."""
    ours = re.compile(rf"\.{re.escape(wanted.name)}-[a-z0-9_]{{8}}")  # the letters that tempfile takes
    return [path for path in wanted.output.iterdir() if ours.fullmatch(path.name)]


def _filled(
    tar: BufferedReader,
    wanted: Wanted,
    runner: RunnerTarball,
    configuration: Configuration,
    disk: Disk,
    progress: Progress,
) -> Files:
    tree = Tree()
    found = tarred.read(tar, Files(tree, disk, 0), keep=outfit.belongs, progress=progress)
    files = Files(tree, disk, found.newest)
    outfit.check(files)
    owner = outfit.fit_out(files, configuration)
    with runner.path.open("rb") as tarball:
        tarred.read(tarball, files, below=outfit.RUNNER_ROOT.encode(), owner=owner)
    if not files.has(f"{outfit.RUNNER_ROOT}/bin/Runner.Listener"):
        raise UsageError(f"{runner.path} holds no runner", details="It has no bin/Runner.Listener.")
    outfit.describe(files, owner, {"Image": wanted.name, "Runner": f"{runner.version} of {runner.date}"})
    return files


def _tell_of_docker(files: Files, found: Kernel, tell: Tell) -> None:
    if lacks := kernel.docker_lacks(files, found):
        tell(f"Docker in this image will not work fully: its kernel {found.version} has no {', '.join(lacks)}")


def _write_parts(files: Files, found: Kernel, wanted: Wanted, work: Path) -> None:
    (work / "vmlinuz").write_bytes(found.image)
    if found.config is not None:
        (work / "config").write_bytes(found.config)

    def module(name: str) -> bytes | None:
        path = found.modules.get(name.replace("-", "_"))
        return None if path is None else files.read(path)

    (work / "initrd").write_bytes(initrd.make(kernel.busybox(files), module))
    if "firecracker" in wanted.engines:
        (work / "vmlinux").write_bytes(vmlinux.extract(found.image, wanted.arch))
        squashfs.make(files, work / "squashfs")
    own = uuid.uuid5(uuid.NAMESPACE_URL, f"ghvm:{wanted.name}").bytes
    finish(files.disk, files.tree, Label(outfit.ROOT_LABEL.encode().ljust(16, b"\0"), own, files.time))


def _publish(work: Path, wanted: Wanted, runner: RunnerTarball, found: Kernel, installed: dict[str, str]) -> Manifest:
    artifacts: dict[str, Artifact] = {}
    names: dict[Role, str] = {}
    for suffix, role in _ROLES.items():
        path = work / suffix
        if path.exists():
            digest = _sha256(path)
            names[role] = f"{wanted.name}.{digest[:12]}.{suffix}"
            artifacts[names[role]] = Artifact(size=path.stat().st_size, sha256=digest, role=role)
            path.chmod(0o644)
            path.rename(wanted.output / names[role])
    cmdline = _CMDLINE.format(console=_CONSOLES[wanted.arch])
    manifest = Manifest(
        schema_version=1,
        name=wanted.name,
        arch=wanted.arch,
        engine=tuple(wanted.engines),
        agent=1,
        runner_version=runner.version,
        runner_date=runner.date,
        kernel_version=found.version,
        packages=installed,
        boot=Boot(kernel=names["kernel"], initrd=names["initrd"], cmdline=cmdline),
        artifacts=artifacts,
    )
    sync_directory(wanted.output)
    (wanted.output / f"{wanted.name}.json.sig").unlink(missing_ok=True)  # it vouches for the manifest before
    write_atomically(wanted.output / f"{wanted.name}.json", manifest.to_json(), mode=0o644)
    _remove_old(wanted, manifest)
    return manifest


def _remove_old(wanted: Wanted, manifest: Manifest) -> None:
    ours = re.compile(rf"{re.escape(wanted.name)}\.[0-9a-f]{{12}}\.({'|'.join(_ROLES)})")
    for path in wanted.output.iterdir():
        if ours.fullmatch(path.name) and path.name not in manifest.artifacts:
            path.unlink()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
