"""Manifests and names at the door."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghrunner_vm.images.manifest import Manifest, check_name

HASH = "a" * 64


def document(**changes: object) -> dict[str, Any]:
    return {
        "schema": 1,
        "name": "ubuntu",
        "arch": "x86_64",
        "engine": ["qemu"],
        "agent": 1,
        "runner-version": "2.337.0",
        "runner-date": "2026-11-01",
        "kernel-version": "6.1.0-40-cloud-amd64",
        "packages": {"libc6": "2.36-9+deb12u13", "libstdc++6": "12.2.0-14+deb12u1"},
        "boot": {"kernel": "ubuntu.vmlinuz", "initrd": None, "cmdline": "console=ttyS0"},
        "artifacts": {
            "ubuntu.qcow2": {"size": 10, "sha256": HASH, "role": "disk"},
            "ubuntu.vmlinuz": {"size": 5, "sha256": HASH, "role": "kernel"},
        },
        **changes,
    }


def parse(value: object) -> Manifest:
    return Manifest.parse(json.dumps(value).encode())


def test_a_manifest_survives_the_round_trip() -> None:
    manifest = parse(document())
    assert json.loads(manifest.to_json()) == document()
    assert (manifest.disk, manifest.total_size) == ("ubuntu.qcow2", 15)


def test_what_is_only_told_may_be_missing() -> None:
    told = ("runner-date", "kernel-version", "packages")
    manifest = parse({key: value for key, value in document().items() if key not in told})
    assert (manifest.runner_date, manifest.kernel_version, manifest.packages) == (None, None, {})


def test_a_plain_disk_is_a_manifest_without_agent() -> None:
    plain = Manifest.plain("ubuntu", sha256=HASH)
    assert (plain.agent, plain.arch, plain.boot.kernel, plain.total_size) == (None, None, None, None)
    assert plain.disk == "ubuntu.qcow2"


DISK = {"size": 10, "sha256": HASH, "role": "disk"}


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": 2},
        {"schema": "1"},
        {"name": "../etc"},
        {"name": "other"},
        {"arch": "mips"},
        {"engine": []},
        {"engine": ["bochs"]},
        {"agent": 2},
        {"runner-version": "latest"},
        {"unknown": 1},
        {"boot": {}},
        {"boot": {"kernel": "ubuntu.qcow2"}},
        {"boot": {"kernel": "ubuntu.vmlinuz", "cmdline": "a\nb"}},
        {"artifacts": {}},
        {"artifacts": {"ubuntu.qcow2": DISK}},
        {"artifacts": {"ubuntu.qcow2": DISK, "ubuntu.raw": DISK}, "boot": {}},
        {"artifacts": {"debian.qcow2": DISK}, "boot": {}},
        {"artifacts": {"ubuntu.qcow2": DISK}, "boot": {"cmdline": "quiet"}},
        {"artifacts": {"ubuntu.qcow2": {**DISK, "size": -1}}, "boot": {}},
        {"artifacts": {"ubuntu.qcow2": {**DISK, "size": "10"}}, "boot": {}},
        {"artifacts": {"ubuntu.qcow2": {**DISK, "sha256": HASH.upper()}}, "boot": {}},
        {"artifacts": {"ubuntu./../x": DISK}, "boot": {}},
        {"name": "manifest", "artifacts": {"manifest.json": DISK}, "boot": {}},
        {"name": "verified", "artifacts": {"verified.json": DISK}, "boot": {}},
    ],
)
def test_what_is_wrong_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        parse(document(**changes))


def test_the_changes_above_fail_for_their_own_sake() -> None:
    assert parse(document(artifacts={"ubuntu.qcow2": DISK}, boot={})).boot.kernel is None


@given(st.binary(max_size=200))
def test_bytes_that_are_no_manifest_raise_only_value_errors(content: bytes) -> None:
    with pytest.raises(ValueError, match="validation error"):
        Manifest.parse(content)


def test_a_huge_or_deep_manifest_is_refused() -> None:
    with pytest.raises(ValueError, match="at most"):
        Manifest.parse(b" " * (2 << 20))
    with pytest.raises(ValueError, match="validation error"):
        Manifest.parse(b"[" * 100_000)


@pytest.mark.parametrize("name", ["a", "ubuntu-24.04_x", "A" * 128, "a..b"])
def test_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", ".a", "-a", "a/b", "a\\b", "a\n", "a\0", "ü", "A" * 129, "a b", "%2e"])
def test_not_names(name: str) -> None:
    with pytest.raises(ValueError, match="not a name"):
        check_name(name)


@given(st.text(max_size=140))
def test_a_name_is_one_visible_path_part(text: str) -> None:
    try:
        check_name(text)
    except ValueError:
        return
    assert text.isascii()
    assert not text.startswith((".", "-"))
    assert not set(text) & set("/\\\0\n \t%")
