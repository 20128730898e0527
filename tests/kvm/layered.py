"""An image for Firecracker, of the distribution with Docker, as `ghvm images build` makes it."""

import hashlib
import shutil
import tarfile
from importlib.resources import files
from pathlib import Path

from click.testing import CliRunner

from ghrunner_vm.cli import cli
from ghrunner_vm.simulator import releases
from tests.e2e import container
from tests.kept import once

NAME = "debian"
_VERSION = "2.337.0"
_APPLETS = ("wget", "nc")
"""What the stand-in for GitHub's runner needs."""
_SOURCES = ("images", "guest")


def build(cache: Path) -> Path:
    """A directory with the image, to be served. Made once for each content of what goes into it and builds it.

    Safe to call from several processes at once: the second waits for the first.
    """
    templates = files("ghrunner_vm.images.build").joinpath("templates")
    dockerfile = templates.joinpath(f"{container.DISTRIBUTION}.Dockerfile").read_text(encoding="utf-8")
    base = container.base(cache, dockerfile)

    def make(work: Path) -> Path:
        _build(base, work)
        return work / "images"

    return once(cache, "layered", _fingerprint(base), make)


def _build(base: Path, work: Path) -> None:
    tar, runner = work / "base.tar", work / releases.filename(_VERSION, "x64")
    shutil.copyfile(base, tar)
    with tarfile.open(tar, "a") as archive:
        for applet in _APPLETS:
            member = tarfile.TarInfo(f"usr/local/bin/{applet}")
            member.type, member.linkname = tarfile.SYMTYPE, "/bin/busybox"
            archive.addfile(member)
    runner.write_bytes(releases.tarball(_VERSION))
    words = ["images", "build", "--from-tar", str(tar), "--name", NAME, "--engine", "firecracker"]
    done = CliRunner().invoke(cli, [*words, "--output", str(work / "images"), "--runner", str(runner)])
    assert done.exit_code == 0, done.output
    for hidden in (work / "images").glob(".*"):
        hidden.unlink()


def _fingerprint(base: Path) -> str:
    digest = hashlib.sha256(base.name.encode() + releases.tarball(_VERSION) + Path(__file__).read_bytes())
    root = Path(str(files("ghrunner_vm")))
    for directory in _SOURCES:
        for file in sorted((root / directory).rglob("*")):
            if file.is_file() and file.suffix != ".pyc":
                digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
