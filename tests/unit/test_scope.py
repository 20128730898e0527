"""The control group that systemd makes for a machine."""

import os
from pathlib import Path

import pytest

from ghrunner_vm.vm import scope
from ghrunner_vm.vm.limits import Limits

LIMITS = Limits(memory=1000, threads=20, file=1)
PROPERTIES = ["-p", "MemoryMax=1000", "-p", "MemorySwapMax=0", "-p", "TasksMax=20", "-p", "CPUWeight=100"]


def test_the_command_of_root() -> None:
    assert scope.in_scope(["qemu", "-x"], "demo-1", LIMITS, user=False) == [
        *("systemd-run", "--scope", "--quiet", "--collect", "--slice-inherit", "--unit=ghvm-vm-demo-1"),
        *PROPERTIES,
        *("--", "qemu", "-x"),
    ]


def test_a_user_asks_their_own_manager() -> None:
    argv = scope.in_scope(["qemu"], "demo-1", LIMITS, user=True)
    assert "--user" in argv
    assert "--slice-inherit" not in argv


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host that systemd manages, whose tools are in a directory of their own."""
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cgroup.controllers").write_text("cpu memory pids\n")
    (tmp_path / "systemd-run").write_text("")
    (tmp_path / "systemd-run").chmod(0o755)
    (tmp_path / "bus").write_text("")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path


def test_systemd_with_control_groups_of_version_2_is_used(root: Path) -> None:
    assert scope.available(root)


@pytest.mark.parametrize("missing", ["run/systemd/system", "sys/fs/cgroup/cgroup.controllers"])
def test_without_them_there_are_no_scopes(root: Path, missing: str) -> None:
    (root / missing).rename(root / "gone")
    assert not scope.available(root)


@pytest.mark.parametrize("directory", [None, "/no/such/directory"])
def test_a_user_without_a_session_has_no_manager(
    root: Path, monkeypatch: pytest.MonkeyPatch, directory: str | None
) -> None:
    # The tests may run as root, who needs no session.
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert scope.available(root)
    if directory is None:
        monkeypatch.delenv("XDG_RUNTIME_DIR")
    else:
        monkeypatch.setenv("XDG_RUNTIME_DIR", directory)
    assert not scope.available(root)
