"""Containers of real builders: their files, and nothing that is left of them."""

import os
import shutil
import signal
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ghrunner_vm import process
from ghrunner_vm.errors import UsageError
from ghrunner_vm.images.build.builder import environment
from ghrunner_vm.images.build.container import BUILDERS, BuildFailed, choose, exported
from tests import builders

SECONDS = 60.0


@pytest.fixture(autouse=True)
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What podman and buildah keep, away from the containers of whoever runs the tests."""
    written = tmp_path / "storage.conf"
    places = f'graphroot = "{tmp_path}/graph"\nrunroot = "{tmp_path}/run"\n'
    written.write_text(f'[storage]\ndriver = "vfs"\n{places}', encoding="utf-8")
    monkeypatch.setenv("CONTAINERS_STORAGE_CONF", str(written))
    monkeypatch.setenv("BUILDAH_ISOLATION", "chroot")  # the tests may run in a container themselves


@pytest.fixture(params=BUILDERS)
def builder(request: pytest.FixtureRequest) -> str:
    """Each builder; docker only where its daemon runs."""
    name = str(request.param)
    if name == "docker":
        try:
            choose(name)
        except UsageError as error:
            pytest.skip(f"docker: {error.details}")
    return name


def _left(builder: str) -> str:
    """Containers of the builder, ours among them."""
    argv = {
        "docker": ("docker", "ps", "--all", "--filter", "name=ghvm-build-", "--quiet"),
        "podman": ("podman", "ps", "--all", "--external", "--quiet"),
        "buildah": ("buildah", "containers", "--quiet"),
    }
    return process.run(argv[builder], timeout=SECONDS, env=environment())


def _build(builder: str, context: Path, tell: Callable[[str], None]) -> dict[str, tarfile.TarInfo]:
    with (
        exported(choose(builder), context, dockerfile=None, arch=os.uname().machine, narrate=tell) as result,
        tarfile.open(fileobj=result.tar, mode="r|") as archive,
    ):
        assert "GREETING=hello world" in result.environment
        assert result.directory == "/srv/work"
        return {entry.name.removeprefix("./"): entry for entry in archive}


def test_the_files_of_a_container(builder: str, tmp_path: Path) -> None:
    steps = ('ENV GREETING="hello world"', "WORKDIR /srv/work", "RUN echo said; echo built >/made")
    context = builders.context(tmp_path / "context", *steps)
    told: list[str] = []
    files = _build(builder, context, told.append)
    assert "said" in told
    assert {"made", "bin/busybox", "srv/work"} <= files.keys()
    assert files["made"].size == 6
    assert files["bin/sh"].issym()
    assert files["bin/busybox"].uid == 0
    assert files["bin/busybox"].size == Path("/bin/busybox").stat().st_size
    assert "SCHILY.xattr.security.capability" in files["bin/ping"].pax_headers
    assert _left(builder) == ""


def test_a_step_that_fails(builder: str, tmp_path: Path) -> None:
    context = builders.context(tmp_path / "context", "RUN echo what is wrong; exit 3")
    with pytest.raises(BuildFailed) as caught:
        _build(builder, context, lambda _: None)
    assert "what is wrong" in str(caught.value.details)
    assert _left(builder) == ""


def test_an_interrupted_step(builder: str, tmp_path: Path) -> None:
    context = builders.context(tmp_path / "context", "RUN echo begun; sleep 1000; sleep 1001")

    def tell(line: str) -> None:
        if line == "begun":
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        _build(builder, context, tell)
    assert _left(builder) == ""


def test_buildah_keeps_no_image(tmp_path: Path) -> None:
    context = builders.context(tmp_path / "context", 'ENV GREETING="hello world"', "WORKDIR /srv/work")
    _build("buildah", context, lambda _: None)
    assert process.run(["buildah", "images", "--all", "--quiet"], timeout=SECONDS, env=environment()) == ""


def test_a_client_without_its_daemon_is_no_builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("docker") is None:
        pytest.skip("there is no docker client")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    assert choose(None).name in ("podman", "buildah")
    with pytest.raises(UsageError, match="docker does not work here"):
        choose("docker")
