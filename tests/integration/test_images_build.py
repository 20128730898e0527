"""`ghvm images build` as a program: what a server then offers, and what is left when it dies or has no room."""

import gzip
import os
import signal
import subprocess  # noqa: TID251 the test kills it half way
import sys
from pathlib import Path

import pytest

from ghrunner_vm.errors import ExitCode
from ghrunner_vm.images.errors import ImageMissing
from ghrunner_vm.images.manifest import Manifest
from ghrunner_vm.images.pull import pull
from ghrunner_vm.images.remote import ImageServer
from ghrunner_vm.images.server import serve
from ghrunner_vm.images.store import ImageStore
from tests import containers
from tests.containers import Container
from tests.integration.mounts import small_disk

SECONDS = 60.0


class Build:
    """The command, in a directory of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.output = home / "build"
        self._runner = home / "actions-runner-linux-x64-2.337.0.tar.gz"
        self._runner.write_bytes(gzip.compress(containers.runner()))

    def start(self, tar: Path, *flags: str) -> "subprocess.Popen[str]":
        words = ("images", "build", "--from-tar", str(tar), "--name", "it", "--runner", str(self._runner))
        argv = [sys.executable, "-m", "ghrunner_vm", *words, "--arch", "x86_64", "--size", "64M", *flags]
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.home)}
        environment["GHVM_IMAGES_CACHE_DIR"] = str(self.home / "cache/images")
        return subprocess.Popen(argv, cwd=self.home, stderr=subprocess.PIPE, text=True, env=environment)

    def run(self, *flags: str, container: Container | None = None) -> tuple[int, str]:
        """Its exit code, and what it says."""
        tar = self.home / "root.tar"
        tar.write_bytes((container or Container().machine()).tar().read())
        process = self.start(tar, *flags)
        _, said = process.communicate(timeout=SECONDS)
        return process.returncode, said

    @property
    def left(self) -> set[str]:
        return {path.name for path in self.output.iterdir()} - {".it.lock"}


@pytest.fixture
def build(tmp_path: Path) -> Build:
    return Build(tmp_path)


def test_what_is_built_can_be_served_and_pulled(build: Build, tmp_path: Path) -> None:
    code, said = build.run()
    assert code == ExitCode.OK, said
    assert "nobody vouches for" in said
    with serve(build.output, cache_dir=tmp_path / "compressed") as service:
        service.wait_ready(SECONDS)
        with ImageServer(service.url) as server:
            store = ImageStore(tmp_path / "cache")
            commit = pull(store, server, "it").commit
    manifest = Manifest.parse((build.output / "it.json").read_bytes())
    with store.lease(commit, "it") as image:
        assert image.manifest == manifest


def test_a_build_that_is_killed_half_way(build: Build, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo.tar"
    os.mkfifo(fifo)
    content = Container().machine().add("large", b"x" * (20 << 20)).tar().read()
    with build.start(fifo) as process, fifo.open("wb", buffering=0) as pipe:
        pipe.write(content[: 10 << 20])  # more than the pipe holds: by its end, most of it has been read
        process.send_signal(signal.SIGKILL)
        process.wait(SECONDS)
    (half,) = build.left
    assert half.startswith(".it-")
    with serve(build.output, cache_dir=tmp_path / "compressed") as service:
        service.wait_ready(SECONDS)
        with ImageServer(service.url) as server, pytest.raises(ImageMissing):
            server.manifest(server.latest(), "it")
    code, said = build.run()
    assert code == ExitCode.OK, said
    assert half not in build.left
    assert "it.json" in build.left


def test_an_interrupted_build_leaves_nothing(build: Build, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo.tar"
    os.mkfifo(fifo)
    content = Container().machine().add("large", b"x" * (20 << 20)).tar().read()
    process = build.start(fifo)
    with fifo.open("wb", buffering=0) as pipe:
        pipe.write(content[: 10 << 20])
        process.send_signal(signal.SIGINT)
    # A signal that comes right before Python waits for more is heard when the wait is over.
    process.communicate(timeout=SECONDS)
    assert process.returncode == ExitCode.INTERRUPTED
    assert build.left == set()


def test_a_full_disk(build: Build) -> None:
    with small_disk(build.output, 8 << 20):
        code, said = build.run(container=Container().machine().add("large", os.urandom(9 << 20)))
        assert code == ExitCode.INFRASTRUCTURE
        assert "disk is too full" in said
        assert "another --output" in said
        assert build.left == set()


def test_a_container_that_cannot_be_a_machine(build: Build) -> None:
    code, said = build.run(container=Container().add("etc/passwd"))
    assert code == ExitCode.USAGE
    assert "cannot boot: it has no systemd" in said
    assert build.left == set()
