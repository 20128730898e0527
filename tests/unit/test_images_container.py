"""What docker and podman are told, and what becomes of their failures. The stand-ins are real programs."""

import os
import re
import signal
import tarfile
from pathlib import Path
from typing import BinaryIO

import pytest

from ghrunner_vm import process
from ghrunner_vm.errors import ExitCode, InfrastructureError, UsageError
from ghrunner_vm.images.build import container
from ghrunner_vm.images.build.builder import environment
from ghrunner_vm.images.build.container import BuildFailed, choose, exported
from tests import builders

_DOWN = "echo 'Cannot connect to the Docker daemon' >&2; exit 1"


@pytest.fixture(autouse=True)
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the only builders are that can be found."""
    directory = tmp_path / "bin"
    directory.mkdir()
    (tmp_path / "files.tar").write_bytes(builders.archive())
    (tmp_path / "Dockerfile").write_text("FROM scratch\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(directory))
    monkeypatch.setattr(process, "_ALWAYS_SEARCHED", f"{directory}:{_without_builders(tmp_path)}")
    return directory


def _without_builders(tmp_path: Path) -> Path:
    """The few programs that the stand-ins use, so that no builder of this host is found."""
    directory = tmp_path / "others"
    directory.mkdir()
    for name in ("cat", "env", "head", "seq", "sh", "sleep", "tar", "touch", "true"):
        (directory / name).symlink_to(next(p for p in (Path("/bin", name), Path("/usr/bin", name)) if p.exists()))
    return directory


def _names(name: str | None, tmp_path: Path, told: list[str] | None = None, arch: str = "x86_64") -> list[str]:
    """What the container of this builder consists of."""
    tell = told.append if told is not None else lambda _: None
    with (
        exported(choose(name), tmp_path, dockerfile=None, arch=arch, narrate=tell) as result,
        tarfile.open(fileobj=result.tar, mode="r|") as archive,
    ):
        return archive.getnames()


@pytest.mark.parametrize("name", ["docker", "podman"])
def test_what_they_are_told(programs: Path, tmp_path: Path, name: str) -> None:
    notes = builders.stand_in(programs, name)
    assert _names(None, tmp_path, arch="aarch64") == ["etc/hostname"]
    calls = re.sub(r"--iidfile \S+", "--iidfile ID", notes.read_text()).splitlines()
    container = calls[3].split()[2]
    assert re.fullmatch(r"ghvm-build-[0-9a-f]{8}", container)
    assert calls[1:] == [
        f"build --force-rm --iidfile ID --platform linux/arm64 --file {tmp_path}/Dockerfile {tmp_path}",
        f"image inspect --format {{{{json .Config}}}} {builders.ID}",
        f"create --name {container} --network none {builders.ID} /sbin/init",
        f"export {container}",
        f"rm --force --volumes {container}",
    ]


def test_what_the_image_says(programs: Path, tmp_path: Path) -> None:
    builders.stand_in(programs, "docker")
    told: list[str] = []
    with exported(choose(None), tmp_path, dockerfile=None, arch="x86_64", narrate=told.append) as result:
        assert result.environment == ("PATH=/bin", "GREETING=hello world")
        assert result.directory == "/srv/work"
        result.tar.read()
    assert told == ["docker keeps the layers for the next build; `docker image prune` removes them"]


def test_another_dockerfile(programs: Path, tmp_path: Path) -> None:
    notes = builders.stand_in(programs, "docker")
    (tmp_path / "Other").touch()
    with exported(choose(None), tmp_path, dockerfile=tmp_path / "Other", arch="x86_64", narrate=print):
        pass
    assert f"--file {tmp_path}/Other {tmp_path}\n" in notes.read_text()


def test_no_dockerfile(programs: Path, tmp_path: Path) -> None:
    builders.stand_in(programs, "docker")
    (tmp_path / "Dockerfile").unlink()
    with pytest.raises(UsageError, match="There is no Dockerfile") as caught:
        _names("docker", tmp_path)
    assert f"ghvm images init {tmp_path}" in str(caught.value.resolution)


def test_the_first_one_that_works_is_taken(programs: Path) -> None:
    builders.stand_in(programs, "docker", check=_DOWN)
    builders.stand_in(programs, "podman")
    assert choose(None).name == "podman"


def test_one_that_was_asked_for_must_work(programs: Path) -> None:
    builders.stand_in(programs, "docker", check=_DOWN)
    builders.stand_in(programs, "podman")
    with pytest.raises(UsageError, match="docker does not work here") as caught:
        choose("docker")
    assert caught.value.details == "Cannot connect to the Docker daemon"
    assert "--builder" in str(caught.value.resolution)


def test_none_works(programs: Path) -> None:
    builders.stand_in(programs, "docker", check=_DOWN)
    with pytest.raises(UsageError, match="No container builder works here") as caught:
        choose(None)
    assert str(caught.value.details).splitlines() == [
        "docker: Cannot connect to the Docker daemon",
        "podman: podman is not installed",
        "buildah: buildah is not installed",
    ]
    assert "apt-get install buildah" in str(caught.value.resolution)


def test_one_that_nobody_knows() -> None:
    with pytest.raises(UsageError, match="'kaniko' is no container builder"):
        choose("kaniko")


def test_a_dockerfile_that_fails(programs: Path, tmp_path: Path) -> None:
    notes = builders.stand_in(programs, "docker", build=r"seq 100; printf '\033[31mE: no such package\n'; exit 100")
    told: list[str] = []
    with pytest.raises(BuildFailed, match="docker could not build") as caught:
        _names("docker", tmp_path, told)
    assert caught.value.exit_code is ExitCode.ERROR
    lines = str(caught.value.details).splitlines()
    assert lines[-1] == told[-1] == "E: no such package"
    assert lines[0] == "82"
    assert "create" not in notes.read_text()


def test_a_host_that_cannot_run_the_other_architecture(programs: Path, tmp_path: Path) -> None:
    builders.stand_in(programs, "podman", build="echo 'exec /bin/sh: exec format error'; exit 1")
    with pytest.raises(BuildFailed) as caught:
        _names("podman", tmp_path, arch="aarch64")
    assert "qemu-user-static" in str(caught.value.resolution)


def test_files_that_end_early_are_no_image(programs: Path, tmp_path: Path) -> None:
    """Whether the reader notices or not; the container is gone all the same."""
    notes = builders.stand_in(programs, "docker", export="cat files.tar; echo daemon died >&2; exit 1")
    with pytest.raises(process.CommandFailed, match="docker failed with exit code 1") as caught:
        _names("docker", tmp_path)
    assert "daemon died" in str(caught.value.details)
    notes_of_half = builders.stand_in(programs, "podman", export="head -c 600 files.tar; exit 1")
    with pytest.raises(process.CommandFailed, match="podman failed with exit code 1"):
        _names("podman", tmp_path)
    for told in (notes, notes_of_half):
        assert told.read_text().splitlines()[-1].startswith("rm --force")


def test_a_container_that_cannot_be_removed_is_told(programs: Path, tmp_path: Path) -> None:
    builders.stand_in(programs, "docker", rm="echo device busy >&2; exit 1")
    told: list[str] = []
    assert _names("docker", tmp_path, told) == ["etc/hostname"]
    assert "docker rm --force --volumes ghvm-build-" in told[-1]
    assert "device busy" in told[-1]


def test_a_container_that_was_never_made_need_not_be_removed(programs: Path, tmp_path: Path) -> None:
    gone = "echo 'Error: No such container: x' >&2; exit 1"
    builders.stand_in(programs, "docker", create="echo no room >&2; exit 125", rm=gone)
    told: list[str] = []
    with pytest.raises(process.CommandFailed, match="125"):
        _names("docker", tmp_path, told)
    assert told == []


def test_an_image_without_an_id(programs: Path, tmp_path: Path) -> None:
    builders.stand_in(programs, "docker", build="true")
    with pytest.raises(InfrastructureError, match="did not say what it has built"):
        _names("docker", tmp_path)


def test_variables_that_no_service_can_have(programs: Path, tmp_path: Path) -> None:
    notes = builders.stand_in(programs, "docker")
    program = programs / "docker"
    program.write_text(program.read_text().replace("hello world", r"two\\nlines"), encoding="utf-8")
    with pytest.raises(UsageError, match="ENV GREETING cannot be given to the runner"):
        _names("docker", tmp_path)
    assert "create" not in notes.read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_build_is_ended(programs: Path, tmp_path: Path, number: signal.Signals) -> None:
    slow = f"trap 'touch {tmp_path}/tidy; exit' TERM; echo ready; while :; do sleep 0.1; done"
    builders.stand_in(programs, "docker", build=slow)
    with (
        pytest.raises(KeyboardInterrupt),
        exported(
            choose("docker"),
            tmp_path,
            dockerfile=None,
            arch="x86_64",
            narrate=lambda _: os.kill(os.getpid(), number),
        ),
    ):
        pass
    assert (tmp_path / "tidy").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_export_leaves_no_container(programs: Path, tmp_path: Path, number: signal.Signals) -> None:
    notes = builders.stand_in(programs, "docker", export="cat files.tar; sleep 1000")
    with (
        pytest.raises(KeyboardInterrupt),
        exported(choose("docker"), tmp_path, dockerfile=None, arch="x86_64", narrate=print) as result,
    ):
        _read_and_interrupt(result.tar, number)
    assert notes.read_text().splitlines()[-1].startswith("rm --force --volumes ghvm-build-")


def _read_and_interrupt(stream: BinaryIO, number: int) -> None:
    stream.read(512)
    os.kill(os.getpid(), number)
    stream.read()


def test_builders_get_their_own_variables_and_no_others(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed = {"DOCKER_HOST": "unix:///x", "https_proxy": "http://p", "NO_PROXY": "y", "XDG_DATA_HOME": "/z"}
    for name, value in {**passed, "GHVM_GITHUB_TOKEN": "secret", "AWS_SECRET_ACCESS_KEY": "secret"}.items():
        monkeypatch.setenv(name, value)
    assert passed.items() <= environment().items()
    notes = builders.stand_in(programs, "docker")
    _names("docker", tmp_path)
    seen = Path(f"{notes}.env").read_text()
    assert "DOCKER_HOST=unix:///x\n" in seen
    assert "secret" not in seen


@pytest.mark.parametrize(("uid", "prefix"), [(0, []), (1000, ["unshare sh -euc"])])
def test_buildah_reads_the_files_where_they_have_their_owners(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uid: int, prefix: list[str]
) -> None:
    """An ordinary user's are in a namespace of buildah's."""
    monkeypatch.setattr(os, "geteuid", lambda: uid)  # the tests run as one user only
    (tmp_path / "root/etc").mkdir(parents=True)
    (tmp_path / "root/etc/hostname").touch()
    notes = builders.stand_in_buildah(programs, tmp_path / "root")
    assert _names("buildah", tmp_path) == [".", "./etc", "./etc/hostname"]
    calls = [re.sub(r"(ghvm-build-)[0-9a-f]{8}", r"\1XXXXXXXX", line) for line in notes.read_text().splitlines()]
    assert re.fullmatch(r"bud --iidfile \S+", calls[1])
    assert calls[2:] == [
        "inspect --type image",
        "from --pull-never --name",
        *prefix,
        "mount ghvm-build-XXXXXXXX ",
        "rm ghvm-build-XXXXXXXX ",
        f"rmi {builders.ID} ",
    ]


def test_buildah_keeps_layers_for_who_wants_them(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUILDAH_LAYERS", "true")
    (tmp_path / "root").mkdir()
    notes = builders.stand_in_buildah(programs, tmp_path / "root")
    told: list[str] = []
    _names("buildah", tmp_path, told)
    assert "rmi" not in notes.read_text()
    assert told == ["buildah keeps the layers for the next build; `buildah rmi --prune` removes them"]


def test_a_directory_that_cannot_be_read(programs: Path, tmp_path: Path) -> None:
    builders.stand_in_buildah(programs, tmp_path / "none", rm="echo container not known >&2; exit 125")
    told: list[str] = []
    with pytest.raises(process.CommandFailed) as caught:
        _names("buildah", tmp_path, told)
    assert "none: Cannot open" in str(caught.value.details)
    assert told == []


def test_the_order_of_builders() -> None:
    assert container.BUILDERS == ("docker", "podman", "buildah")
