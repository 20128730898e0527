"""The throw-away disk, made by the real qemu-img, and the images that it refuses."""

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ghrunner_vm import process
from ghrunner_vm.errors import PermanentError, UsageError
from ghrunner_vm.vm.overlay import overlay, virtual_size

MIB = 1 << 20


@contextmanager
def image(path: Path, *options: str, size: str = "64M", form: str = "qcow2") -> Iterator[int]:
    process.run(["qemu-img", "create", "-q", "-f", form, *options, str(path), size], timeout=60)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def test_a_layer_is_made_and_gone(tmp_path: Path) -> None:
    path = tmp_path / "overlay.qcow2"
    with image(tmp_path / "base.qcow2") as base, overlay(tmp_path, base, 100 * MIB) as disk:
        assert virtual_size(disk) == 100 * MIB
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert not os.get_inheritable(disk)
        told = json.loads(process.run(["qemu-img", "info", "--output=json", str(path)], timeout=60))
        assert "backing-filename" not in told
    assert not path.exists()


def test_a_layer_as_large_as_the_image(tmp_path: Path) -> None:
    with image(tmp_path / "base.qcow2") as base, overlay(tmp_path, base, 64 * MIB) as disk:
        assert virtual_size(disk) == 64 * MIB


def test_a_layer_smaller_than_the_image_is_refused(tmp_path: Path) -> None:
    with (
        image(tmp_path / "base.qcow2", size="1100M") as base,
        pytest.raises(UsageError) as caught,
        overlay(tmp_path, base, 64 * MIB),
    ):
        pass
    assert caught.value.resolution == "Set root-disk in the spec to 1100M or more."
    assert not (tmp_path / "overlay.qcow2").exists()


def test_old_and_new_versions_of_the_format(tmp_path: Path) -> None:
    for version in ("0.10", "1.1"):
        with image(tmp_path / "base.qcow2", "-o", f"compat={version}") as base:
            assert virtual_size(base) == 64 * MIB


def test_an_image_with_a_backing_file_is_refused(tmp_path: Path) -> None:
    with (
        image(tmp_path / "below.qcow2"),
        image(tmp_path / "base.qcow2", "-b", "below.qcow2", "-F", "qcow2") as base,
        pytest.raises(PermanentError, match="another file"),
    ):
        virtual_size(base)


def test_an_image_with_its_data_elsewhere_is_refused(tmp_path: Path) -> None:
    with (
        image(tmp_path / "base.qcow2", "-o", f"data_file={tmp_path}/data.raw") as base,
        pytest.raises(PermanentError, match="another file"),
    ):
        virtual_size(base)


def test_another_format_is_refused(tmp_path: Path) -> None:
    for form in ("raw", "vmdk", "qcow"):
        with image(tmp_path / form, form=form) as base, pytest.raises(PermanentError):
            virtual_size(base)


@pytest.mark.parametrize("content", [b"", b"QFI\xfb", b"QFI\xfb" + b"\0" * 50])
def test_a_stub_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "stub").write_bytes(content)
    with (tmp_path / "stub").open("rb") as stub, pytest.raises(PermanentError, match="not in the qcow2 format"):
        virtual_size(stub.fileno())
