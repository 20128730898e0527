"""Which programs are taken, and what their ends mean."""

import os
from pathlib import Path

import pytest

from ghrunner_vm.errors import GhvmError, InfrastructureError, NotUpError, PermanentError
from ghrunner_vm.vm.firecracker.complaints import ended_by, not_started
from ghrunner_vm.vm.firecracker.programs import Wanted, find, is_old

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only what is root's is taken")


@pytest.mark.parametrize(
    ("version", "old"),
    [
        ((1, 12, 1), True),
        ((1, 13, 1), True),
        ((1, 13, 2), False),
        ((1, 14, 0), True),
        ((1, 14, 1), False),
        ((1, 16, 1), False),
        ((2, 0, 0), False),
    ],
)
def test_versions_with_the_hole(version: tuple[int, int, int], old: bool) -> None:
    assert is_old(version) is old


def wanted(directory: Path, firecracker: str = "Firecracker v1.16.1", jailer: str = "Jailer v1.16.1") -> Wanted:
    """Programs that say these versions."""
    for name, said in (("firecracker", firecracker), ("jailer", jailer)):
        (directory / name).write_text(f"#!/bin/sh\necho '{said}'\n")
        (directory / name).chmod(0o755)
    return Wanted(directory / "firecracker", directory / "jailer")


@as_root
def test_a_pair_of_one_version(tmp_path: Path) -> None:
    found = find(wanted(tmp_path))
    assert (found.firecracker, found.jailer) == (str(tmp_path / "firecracker"), str(tmp_path / "jailer"))


@as_root
@pytest.mark.parametrize(
    ("firecracker", "jailer", "words"),
    [
        ("Firecracker v1.16.1", "Jailer v1.16.0", "its jailer 1.16.0"),
        ("Firecracker v1.14.0", "Jailer v1.14.0", "CVE-2026-1386"),
        ("hello", "Jailer v1.14.0", "does not tell its version"),
    ],
)
def test_versions_that_are_refused(tmp_path: Path, firecracker: str, jailer: str, words: str) -> None:
    with pytest.raises(PermanentError, match=words):
        find(wanted(tmp_path, firecracker, jailer))


@as_root
def test_what_others_can_change_is_not_started(tmp_path: Path) -> None:
    asked = wanted(tmp_path)
    (tmp_path / "jailer").chmod(0o775)
    with pytest.raises(PermanentError, match="Others than root can change"):
        find(asked)


@as_root
def test_another_program_than_the_settings_name(tmp_path: Path) -> None:
    asked = wanted(tmp_path)
    with pytest.raises(PermanentError, match="another firecracker"):
        find(Wanted(asked.firecracker, asked.jailer, firecracker_sha256="0" * 64))


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match="There is no program"):
        find(Wanted(tmp_path / "firecracker", tmp_path / "jailer"))


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (-9, "signal 9"),
        (137, "signal 9"),
        (1, "exit code 1: an error of its own"),
        (148, "exit code 148: a system call that its filter does not allow"),
        (99, "exit code 99"),
    ],
)
def test_how_it_ended(code: int, words: str) -> None:
    assert ended_by(code) == words


@pytest.mark.parametrize(
    ("said", "kind", "brief"),
    [
        ("ghvm cannot wall in the VMM: Operation not permitted", PermanentError, "A jail for Firecracker cannot be"),
        ("Error creating KVM object: No such file or directory (os error 2)", PermanentError, "cannot use KVM"),
        ("Cannot allocate memory (os error 12)", InfrastructureError, "not enough memory"),
        ("Open tap device failed: Error while creating ifreq", InfrastructureError, "network card"),
        ("Cannot load kernel due to invalid memory configuration", PermanentError, "cannot load the image's kernel"),
        ("", NotUpError, "did not start"),
    ],
)
def test_why_it_did_not_start(said: str, kind: type[GhvmError], brief: str) -> None:
    error = not_started(said, 1)
    assert (type(error), brief in error.brief) == (kind, True)
