"""Firmware by its announcements: which one is taken, and how it is opened."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from ghrunner_vm.errors import PermanentError
from ghrunner_vm.vm.qemu import firmware
from ghrunner_vm.vm.qemu.commandline import Flash, Rom

_BLOCK = 1 << 16


class Host:
    """A host with two places for announcements, and the firmware itself."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.places = [root / "share", root / "etc"]
        for place in self.places:
            place.mkdir()

    def announce(self, file: str, changes: Mapping[str, object] | None = None, *, place: int = 0) -> None:
        """Firmware that says which announcement it belongs to."""
        code, template = self._root / f"{place}-{file}.fd", self._root / "vars.fd"
        code.write_text(f"{place} {file}", encoding="utf-8")
        template.write_bytes(b"variables")
        flash = {
            "device": "flash",
            "executable": {"filename": str(code), "format": "raw"},
            "nvram-template": {"filename": str(template), "format": "qcow2"},
        }
        described = {
            "description": "UEFI",
            "interface-types": ["uefi"],
            "mapping": flash,
            "targets": [{"architecture": "aarch64", "machines": ["virt-*"]}],
            "features": ["verbose-static"],
            "tags": [],
        }
        self.write(file, json.dumps({**described, **(changes or {})}), place=place)

    def write(self, file: str, text: str, *, place: int = 0) -> None:
        (self.places[place] / file).write_text(text, encoding="utf-8")

    @property
    def chosen(self) -> str:
        with firmware.uefi("aarch64", self.places) as found:
            return os.pread(found.descriptors[0], 100, 0).decode()


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_the_first_name_wins_wherever_it_is(host: Host) -> None:
    host.announce("60-b.json")
    host.announce("50-a.json", place=1)
    host.announce("70-c.json", place=1)
    assert host.chosen == "1 50-a.json"


def test_a_later_place_hides_a_name_of_an_earlier_one(host: Host) -> None:
    host.announce("50-a.json")
    host.announce("50-a.json", place=1)
    assert host.chosen == "1 50-a.json"


def test_an_empty_file_switches_one_off(host: Host) -> None:
    host.announce("50-a.json")
    host.announce("60-b.json")
    host.write("50-a.json", "", place=1)
    assert host.chosen == "0 60-b.json"


TARGET = {"architecture": "aarch64", "machines": ["virt-*"]}


@pytest.mark.parametrize(
    "changes",
    [
        {"features": ["secure-boot"]},
        {"features": ["verbose-static", "enrolled-keys"]},
        {"interface-types": ["bios"]},
        {"targets": [{**TARGET, "architecture": "x86_64"}]},
        {"targets": [{**TARGET, "machines": ["sbsa-ref*"]}]},
        {"targets": []},
        {"mapping": {"device": "kernel", "filename": "/boot/firmware"}},
        {"mapping": {"device": "flash", "mode": "combined", "executable": {"filename": "/f", "format": "raw"}}},
        {"mapping": {"device": "flash", "executable": {"filename": "/f", "format": "vmdk"}}},
        {"mapping": "flash"},
        {"interface-types": 1},
    ],
)
def test_what_does_not_fit_is_passed_over(host: Host, changes: dict[str, object]) -> None:
    host.announce("50-a.json", changes)
    host.announce("60-b.json")
    assert host.chosen == "0 60-b.json"


@pytest.mark.parametrize("text", ["{", "[]", "null", "\0", "{}"])
def test_what_cannot_be_read_is_passed_over(host: Host, text: str) -> None:
    host.write("50-a.json", text)
    (host.places[0] / "55-b.json").mkdir()
    host.announce("60-b.json")
    assert host.chosen == "0 60-b.json"


def test_no_firmware_names_the_packages(host: Host) -> None:
    with pytest.raises(PermanentError, match="No UEFI firmware") as caught, firmware.uefi("aarch64", host.places):
        pass
    assert "qemu-efi-aarch64" in str(caught.value.resolution)
    assert "edk2-aarch64" in str(caught.value.resolution)
    assert str(host.places[1]) in str(caught.value.details)


def test_firmware_that_is_announced_but_not_there(host: Host, tmp_path: Path) -> None:
    host.announce("50-a.json")
    (tmp_path / "0-50-a.json.fd").unlink()
    with pytest.raises(PermanentError, match=r"50-a\.json\.fd: No such file"), firmware.uefi("aarch64", host.places):
        pass


def test_the_code_is_shared_and_the_variables_are_a_copy(host: Host, tmp_path: Path) -> None:
    content = b"begin" + bytes(3 * _BLOCK) + b"end"
    host.announce("50-a.json")
    (tmp_path / "vars.fd").write_bytes(content)
    with firmware.uefi("aarch64", host.places) as found:
        assert isinstance(found, Flash)
        assert (found.code_format, found.variables_format) == ("raw", "qcow2")
        assert found.variables is not None
        assert os.pread(found.variables, len(content) + 1, 0) == content
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.pwrite(found.code, b"x", 0)
        os.pwrite(found.variables, b"x", 0)
    assert (tmp_path / "vars.fd").read_bytes() == content
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(found.code)


@pytest.mark.parametrize("mode", ["stateless", "split"])
def test_firmware_may_keep_no_variables(host: Host, tmp_path: Path, mode: str) -> None:
    (tmp_path / "code.fd").touch()
    executable = {"filename": str(tmp_path / "code.fd"), "format": "qcow2"}
    host.announce("50-a.json", {"mapping": {"device": "flash", "mode": mode, "executable": executable}})
    with firmware.uefi("aarch64", host.places) as found:
        assert isinstance(found, Flash)
        assert (found.code_format, found.variables) == ("qcow2", None)


def test_firmware_as_plain_memory(host: Host, tmp_path: Path) -> None:
    (tmp_path / "efi.fd").write_bytes(b"efi")
    host.announce("50-a.json", {"mapping": {"device": "memory", "filename": str(tmp_path / "efi.fd")}})
    with firmware.uefi("aarch64", host.places) as found:
        assert isinstance(found, Rom)
        assert os.pread(found.image, 10, 0) == b"efi"


@pytest.mark.parametrize(("uid", "counts"), [(0, False), (1000, True)])
def test_only_a_user_has_firmware_of_ones_own(monkeypatch: pytest.MonkeyPatch, uid: int, counts: bool) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)  # the tests run as one user only
    monkeypatch.setenv("XDG_CONFIG_HOME", "/home/user/config")
    shared = [Path("/usr/share/qemu/firmware"), Path("/etc/qemu/firmware")]
    own = [Path("/home/user/config/qemu/firmware")]
    assert firmware.directories() == shared + (own if counts else [])
