"""`ghvm images init`, and whether what it writes can be installed."""

import platform
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ghrunner_vm import process
from ghrunner_vm.cli import cli
from ghrunner_vm.errors import ExitCode, PermanentError, UsageError
from ghrunner_vm.images.build.starter import DISTRIBUTIONS

_HOST = platform.freedesktop_os_release()
_INSTALL = re.compile(r"apt-get install -y --no-install-recommends (.*?)&&")


def init(*words: str) -> Result:
    return CliRunner().invoke(cli, ["images", "init", *words])


def dockerfile(directory: Path, distribution: str) -> str:
    """What is written for a distribution, as the builder reads it: no comments, each instruction on one line."""
    assert init(str(directory), "--distribution", distribution).exit_code == ExitCode.OK
    lines = (directory / "Dockerfile").read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if not line.lstrip().startswith("#")).replace("\\\n", " ")


def packages(text: str) -> list[str]:
    architecture = process.run(["dpkg", "--print-architecture"], timeout=60).strip()
    plain = text.replace("$(dpkg --print-architecture)", architecture)
    return [name for found in _INSTALL.findall(plain) for name in shlex.split(found)]


def test_a_dockerfile_to_begin_with(tmp_path: Path) -> None:
    where = tmp_path / "my image"
    result = init(str(where))
    assert result.exit_code == ExitCode.OK
    assert result.stdout.splitlines() == [f"{where}/Dockerfile", f"{where}/.dockerignore"]
    assert f"ghvm images build '{where}'" in result.stderr
    assert "\nFROM debian:12" in (where / "Dockerfile").read_text()
    assert ".git\n" in (where / ".dockerignore").read_text()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("mine")
    result = init(str(tmp_path))
    assert isinstance(result.exception, UsageError)
    assert f"{tmp_path}/Dockerfile is there already" in str(result.exception)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_what_is_ignored_stays(tmp_path: Path) -> None:
    (tmp_path / ".dockerignore").write_text("mine")
    assert init(str(tmp_path)).stdout.splitlines() == [f"{tmp_path}/Dockerfile"]
    assert (tmp_path / ".dockerignore").read_text() == "mine"


def test_a_link_that_leads_nowhere_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").symlink_to(tmp_path / "elsewhere")
    assert isinstance(init(str(tmp_path)).exception, UsageError)
    assert not (tmp_path / "elsewhere").exists()


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = init(str(tmp_path / "file/below"))
    assert isinstance(result.exception, PermanentError)
    assert "cannot be written" in str(result.exception)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_what_every_image_needs(tmp_path: Path, distribution: str) -> None:
    text = dockerfile(tmp_path, distribution)
    name, version = distribution.split("-")
    assert re.match(rf"FROM {name}:{re.escape(version)}\b", text.strip())
    installed = packages(text)
    assert {"systemd", "systemd-sysv", "udev", "dbus", "kmod", "iproute2", "nftables", "iptables"} <= set(installed)
    assert {"busybox-static", "openssh-server", "docker.io", "ca-certificates", "curl", "git", "sudo"} <= set(installed)
    assert any(package.startswith("linux-image-") for package in installed)
    assert any(package.startswith("libicu") for package in installed)
    assert "initramfs-tools" not in installed
    assert "actions-runner" not in text


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_the_packages_can_be_installed(tmp_path: Path, distribution: str) -> None:
    """By the apt of a host that runs the distribution; on others nobody can tell."""
    if distribution != f"{_HOST['ID']}-{_HOST.get('VERSION_ID')}":
        pytest.skip(f"this host runs {_HOST['PRETTY_NAME']}")
    wanted = packages(dockerfile(tmp_path, distribution))
    simulated = process.run(
        ["apt-get", "install", "--simulate", "--no-install-recommends", "--quiet", *wanted], timeout=100
    )
    assert "Remv" not in simulated
