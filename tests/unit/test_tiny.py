"""The parts of the tiny image: its archive, read by the real cpio, and the order of its modules."""

import lzma
import os
import platform
import stat
import time
from pathlib import Path

import pytest
import zstandard

from ghrunner_vm import process
from ghrunner_vm.errors import GhvmError, InfrastructureError
from ghrunner_vm.images.build import cpio, modules
from ghrunner_vm.simulator.tiny import packages
from ghrunner_vm.simulator.tiny.apt import HOST, apt
from ghrunner_vm.simulator.tiny.packages import Unpacked

MEMBERS = [
    cpio.directory("bin"),
    cpio.program("bin/sh", b"#!/bin/false\n"),
    cpio.link("bin/link", "sh"),
    cpio.directory("etc"),
    *(cpio.Member(f"etc/{'n' * length}", b"x" * length) for length in range(1, 9)),
    cpio.Member("etc/empty"),
    cpio.Member("etc/large", bytes(range(256)) * 1000),
]


def test_the_archive_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(cpio.archive(MEMBERS))
    out = tmp_path / "out"
    out.mkdir()
    process.run(["cpio", "-id", "--quiet", "-F", str(tmp_path / "archive")], timeout=60, cwd=out)
    found = sorted(str(path.relative_to(out)) for path in out.rglob("*"))
    assert found == sorted(member.path for member in MEMBERS)
    for member in MEMBERS:
        path = out / member.path
        mode = path.lstat().st_mode
        assert stat.S_IFMT(mode) == stat.S_IFMT(member.mode)
        if path.is_symlink():
            assert str(path.readlink()) == member.content.decode()
        elif path.is_file():
            assert path.read_bytes() == member.content
            assert stat.S_IMODE(mode) == stat.S_IMODE(member.mode)


def test_everything_belongs_to_root(tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(cpio.archive(MEMBERS))
    listing = process.run(["cpio", "-itvn", "--quiet", "-F", str(tmp_path / "archive")], timeout=60)
    assert {tuple(line.split()[2:4]) for line in listing.splitlines()} == {("0", "0")}


def test_the_archive_depends_on_its_content_only() -> None:
    assert cpio.archive(MEMBERS) == cpio.archive(MEMBERS)


class Kernel:
    """A tree of modules as a distribution's package has it."""

    def __init__(self, root: Path) -> None:
        self._modules = root / "lib/modules/6.1.0/kernel"
        self.unpacked = Unpacked(root, root / "vmlinuz", root / "busybox")

    def add(self, name: str, *needs: str, suffix: str = "", folder: str = "drivers/virtio") -> bytes:
        content = b"\x7fELF\0license=GPL\0depends=" + ",".join(needs).encode() + b"\0name=" + name.encode() + b"\0"
        path = self._modules / folder / f"{name}.ko{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        packed = {"": content, ".xz": lzma.compress(content), ".zst": zstandard.compress(content)}
        path.write_bytes(packed[suffix])
        return content


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path)


def test_a_module_comes_after_all_that_it_needs(kernel: Kernel) -> None:
    kernel.add("ext4", "mbcache", "jbd2", "crc16", folder="fs/ext4")
    kernel.add("jbd2", "crc16")
    kernel.add("mbcache")
    kernel.add("crc16")
    kernel.add("virtio_net", "net_failover")
    kernel.add("net_failover", "failover")
    kernel.add("failover")
    order = list(modules.in_order(kernel.unpacked.module, ["virtio_net", "ext4"]))
    assert order == ["failover", "net_failover", "virtio_net", "mbcache", "crc16", "jbd2", "ext4"]


def test_compressed_modules_are_unpacked(kernel: Kernel) -> None:
    plain = {suffix: kernel.add(f"m{number}", suffix=suffix) for number, suffix in enumerate(["", ".xz", ".zst"])}
    assert list(modules.in_order(kernel.unpacked.module, ["m0", "m1", "m2"]).values()) == list(plain.values())


def test_what_the_kernel_has_built_in_is_left_out(kernel: Kernel) -> None:
    kernel.add("virtio_blk", "virtio", "virtio_ring")
    assert list(modules.in_order(kernel.unpacked.module, ["virtio_blk", "button"])) == ["virtio_blk"]


def test_a_file_may_be_named_with_hyphens(kernel: Kernel) -> None:
    kernel.add("virtio-rng")
    assert list(modules.in_order(kernel.unpacked.module, ["virtio_rng"])) == ["virtio_rng"]


def test_a_similar_name_is_another_module(kernel: Kernel) -> None:
    kernel.add("virtio_pci_modern_dev")
    assert modules.in_order(kernel.unpacked.module, ["virtio_pci"]) == {}


class Tools:
    """An apt-get and an apt-cache that do as they are told, in front of the real ones."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.install("apt-get", "exit 0")
        self.install("apt-cache", "exit 0")

    def install(self, name: str, script: str) -> None:
        """Shell text; `$lists` is where the package lists are kept."""
        lists = "for word; do case $word in Dir::State=*) lists=${word#*=}/lists ;; esac; done"
        log = f'echo "${{0##*/}} $*" >>{self._root}/calls'
        (self._root / name).write_text(f"#!/bin/sh\n{log}\n{lists}\n{script}\n", encoding="utf-8")
        (self._root / name).chmod(0o755)

    @property
    def calls(self) -> list[str]:
        file = self._root / "calls"
        return file.read_text(encoding="utf-8").splitlines() if file.exists() else []


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tools:
    (tmp_path / "tools").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "tools"), prepend=":")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    return Tools(tmp_path / "tools")


def test_nobody_else_can_put_a_package_among_the_downloads(tools: Tools, tmp_path: Path) -> None:
    tools.install("apt-get", f"stat -c %a . > {tmp_path}/mode; exit 1")
    with pytest.raises(process.CommandFailed):
        packages.unpack(HOST, ("linux-image-none",), tmp_path / "out")
    assert int((tmp_path / "mode").read_text(encoding="utf-8"), 8) & 0o022 == 0


def test_the_hosts_own_architecture_has_the_hosts_package_lists(tools: Tools, tmp_path: Path) -> None:
    assert not any("Dir::" in option for option in apt("x86_64", tmp_path).options)
    assert tools.calls == []


def test_lists_of_another_architecture_are_fetched_once_a_day(tools: Tools, tmp_path: Path) -> None:
    tools.install("apt-get", "touch $lists/server_Packages.lz4")
    arm = [apt("aarch64", tmp_path) for _ in range(3)]
    assert [call.split()[-1] for call in tools.calls] == ["update"]
    assert "APT::Architecture=arm64" in arm[0].options
    assert arm == [arm[0]] * 3
    yesterday = time.time() - 25 * 3600
    os.utime(tmp_path / "apt-aarch64/updated", (yesterday, yesterday))
    apt("aarch64", tmp_path)
    assert len(tools.calls) == 2


def test_old_lists_do_when_there_are_no_new_ones(tools: Tools, tmp_path: Path) -> None:
    tools.install("apt-get", "touch $lists/server_Packages.lz4")
    apt("aarch64", tmp_path)
    os.utime(tmp_path / "apt-aarch64/updated", (0, 0))
    tools.install("apt-get", "exit 100")
    assert apt("aarch64", tmp_path).options
    assert len(tools.calls) == 2


def test_the_first_lists_must_arrive(tools: Tools, tmp_path: Path) -> None:
    tools.install("apt-get", "exit 100")
    with pytest.raises(InfrastructureError):
        apt("aarch64", tmp_path)


def test_an_update_that_brought_nothing_is_tried_again(tools: Tools, tmp_path: Path) -> None:
    for _ in range(2):  # apt-get says 0 when it reached no server
        apt("aarch64", tmp_path)
    assert len(tools.calls) == 2


def test_a_distribution_without_a_kernel_for_an_architecture(tools: Tools, tmp_path: Path) -> None:
    with pytest.raises(GhvmError, match="no arm64 kernel"):
        packages.kernel_packages("aarch64", apt("aarch64", tmp_path))
    assert all("APT::Architecture=arm64" in call for call in tools.calls)


def test_the_kernel_is_what_the_distributions_package_leads_to(tools: Tools, tmp_path: Path) -> None:
    tools.install("apt-cache", "echo '  Depends: linux-image-6.1.0-9-cloud-arm64'")
    assert packages.kernel_packages("aarch64", apt("aarch64", tmp_path)) == ("linux-image-6.1.0-9-cloud-arm64",)
