"""From a tar of a container's files to a bundle: what comes in, what is added, and what is refused."""

import bz2
import datetime
import gzip
import json
import lzma
import os
import stat
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard
from click.testing import CliRunner

from ghrunner_vm import process
from ghrunner_vm.commands.images.build import build as command
from ghrunner_vm.errors import UsageError
from ghrunner_vm.files import lock
from ghrunner_vm.images.build import bundle, kernel, modules, outfit, packages, tarred, users
from ghrunner_vm.images.build.bundle import Wanted
from ghrunner_vm.images.build.ext4.disk import Disk
from ghrunner_vm.images.build.files import Files, Owner
from ghrunner_vm.images.build.outfit import Configuration
from ghrunner_vm.images.build.runner import RunnerTarball
from ghrunner_vm.images.build.tree import Node, Tree, printable
from ghrunner_vm.images.manifest import Manifest
from tests import containers, disks
from tests.containers import STATIC, TIME, VERSION, Container, buffered

MIB = 1 << 20


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Files]:
    """No files yet, on a small disk."""
    with (tmp_path / "disk").open("w+b") as file:
        yield Files(Tree(TIME), Disk(file.fileno(), 64 * MIB), TIME)


def node(files: Files, path: str) -> Node:
    found = files.tree.find(path, follow=False)
    assert found is not None, path
    return found


# ---- what comes in ----


def test_owners_modes_times_and_attributes_are_kept(files: Files) -> None:
    capability = "\x01\x00\x00\x02\x00 \x00\x00\udcff"
    tar = Container()
    tar.add("bin/ping", b"p", {"security.capability": capability}, mode=0o4755, uid=70_000, gid=5, mtime=TIME + 7)
    read = tarred.read(tar.tar(), files)
    ping = node(files, "bin/ping")
    assert (stat.S_IMODE(ping.mode), ping.uid, ping.gid, ping.mtime) == (0o4755, 70_000, 5, TIME + 7)
    assert ping.xattrs == {b"security.capability": b"\x01\x00\x00\x02\x00 \x00\x00\xff"}
    assert (read.members, read.size, read.newest) == (1, 1, TIME + 7)


@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, lzma.compress, zstandard.compress])
def test_any_usual_compression(files: Files, compress: object) -> None:
    assert callable(compress)
    content = compress(Container().add("it", b"content").tar().read())
    tarred.read(buffered(content), files)
    assert files.read("it") == b"content"


def test_kinds_of_files(files: Files) -> None:
    tar = Container().add("file", b"content").add("hard", type=tarfile.LNKTYPE, linkname="./file")
    tar.add("soft", type=tarfile.SYMTYPE, linkname="/file").add("pipe", type=tarfile.FIFOTYPE)
    tar.add("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3).add("directory", type=tarfile.DIRTYPE, mode=0o700)
    tarred.read(tar.tar(), files)
    assert node(files, "hard") is node(files, "file")
    assert files.read("soft") == b"content"
    assert node(files, "null").device == (1, 3)
    assert stat.S_ISFIFO(node(files, "pipe").mode)
    assert stat.S_IMODE(node(files, "directory").mode) == 0o700


def test_what_comes_later_wins(files: Files) -> None:
    tar = Container().add("d/kept", b"k").add("d/it", b"first").add("d/it", b"second")
    tar.add("d", type=tarfile.DIRTYPE, mode=0o711).add("f").add("f", type=tarfile.SYMTYPE, linkname="d/it")
    tarred.read(tar.tar(), files)
    assert (files.read("d/it"), files.read("d/kept"), files.read("f")) == (b"second", b"k", b"second")
    assert stat.S_IMODE(node(files, "d").mode) == 0o711


def test_names_in_any_bytes(files: Files, tmp_path: Path) -> None:
    (tmp_path / "odd").mkdir()
    name = os.fsdecode(b'new\nline \xff\x80 "quoted"')
    (tmp_path / "odd" / name).write_bytes(b"content")
    process.run(["tar", "-C", str(tmp_path / "odd"), "-cf", str(tmp_path / "odd.tar"), "."], timeout=60)
    with (tmp_path / "odd.tar").open("rb") as tar:
        tarred.read(tar, files)
    assert files.tree.find(os.fsencode(name)) is not None


def test_a_sparse_file_takes_the_room_of_what_is_in_it(files: Files, tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.seek(60 * MIB)
        file.write(b"end")
    argv = ["tar", "-C", str(tmp_path), "--sparse", "-cf", str(tmp_path / "sparse.tar"), "sparse"]
    process.run(argv, timeout=60)
    with (tmp_path / "sparse.tar").open("rb") as tar:
        tarred.read(tar, files)
    content = node(files, "sparse").content
    assert (content.size, sum(extent.count for extent in content.extents)) == (60 * MIB + 3, 1)


def test_links_lead_nowhere_but_into_the_image(files: Files) -> None:
    tar = Container().add("up", type=tarfile.SYMTYPE, linkname="../../../etc").add("etc/it", b"inside")
    tar.add("round", type=tarfile.SYMTYPE, linkname="round").add("up/other", b"below a link")
    tarred.read(tar.tar(), files)
    assert files.read("up/it") == b"inside"
    assert files.read("etc/other") == b"below a link"
    assert files.read("round") is None


@pytest.mark.parametrize(
    ("tar", "why"),
    [
        (Container().add("../../etc/passwd", b"x"), "climbs out"),
        (Container().add("a/../../b"), "climbs out"),
        (Container().add("it", type=tarfile.LNKTYPE, linkname="nowhere"), "hard link leads nowhere"),
        (Container().add("it", type=tarfile.LNKTYPE, linkname="../../etc/passwd"), "climbs out"),
        (Container().add("d", type=tarfile.DIRTYPE).add("h", type=tarfile.LNKTYPE, linkname="d"), "leads nowhere"),
        (Container().add("n" * 256), "cannot be written"),
        (Container().add("f").add("f/below"), "something below it"),
        (Container().add("a", b"x" * (40 * MIB)).add("b", b"x" * (40 * MIB)), "does not fit"),
        (Container().add("odd", type=b"V"), "kind of file"),
        (Container().sparse("holes", 1 << 40), "larger than the disk"),
        (Container().add(".", b"x"), "root of the image is no directory"),
        (Container().add("", type=tarfile.SYMTYPE, linkname="usr"), "root of the image is no directory"),
        (Container().add("d/" * 2048 + "f"), "cannot be written"),
        (Container().add("s", type=tarfile.SYMTYPE), "link cannot be written"),
        (Container().add("s", type=tarfile.SYMTYPE, linkname="x" * 4096), "link cannot be written"),
        (Container().add("s", type=tarfile.SYMTYPE, pax_headers={"linkpath": "a\0b"}), "link cannot be written"),
        (Container().add("f", pax_headers={"uid": str(1 << 32)}), "numbers"),
        (Container().add("f", pax_headers={"gid": "-2"}), "numbers"),
        (Container().add("c", type=tarfile.CHRTYPE, devmajor=1 << 12), "numbers"),
        (Container().add("b", type=tarfile.BLKTYPE, devminor=1 << 20), "numbers"),
        (Container().add("f", pax_headers={"mtime": "nan"}), "not a whole tar"),
    ],
)
def test_what_cannot_be_in_an_image(files: Files, tar: Container, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        tarred.read(tar.tar(), files)


def test_times_beyond_all_clocks(files: Files) -> None:
    tar = Container().add("f", pax_headers={"mtime": "inf"}).add("g", pax_headers={"mtime": "-1e300"})
    assert tarred.read(tar.tar(), files).newest == (1 << 32) - 1
    assert (node(files, "f").mtime, node(files, "g").mtime) == ((1 << 34) - (1 << 31) - 1, -(1 << 31))


def test_links_as_parents(files: Files) -> None:
    tar = Container().add("nowhere", type=tarfile.SYMTYPE, linkname="gone").add("nowhere/a/b", b"made")
    tar.add("loop", type=tarfile.SYMTYPE, linkname="loop").add("loop/f", b"made, too")
    tarred.read(tar.tar(), files)
    assert files.read("nowhere/a/b") == b"made"
    assert files.read("loop/f") == b"made, too"


@pytest.mark.parametrize("content", [b"", b"no tar at all" * 100, bytes(100)])
def test_what_is_no_tar(files: Files, content: bytes) -> None:
    with pytest.raises(UsageError, match="not a whole tar"):
        tarred.read(buffered(content), files)


@pytest.mark.parametrize("length", [700, 5000, 1 << 20])
def test_a_tar_that_ends_too_early(files: Files, length: int) -> None:
    whole = Container().add("it", b"x" * (2 * MIB)).tar().read()
    with pytest.raises(UsageError, match="not a whole tar"):
        tarred.read(buffered(whole[:length]), files)


def test_paths_for_persons() -> None:
    assert printable(b"a\x1b[2J\xff\n") == "a\\x1b[2J\\xff\\n"


# ---- what is added ----


@pytest.fixture
def machine(files: Files) -> Files:
    """A container that can become a machine."""
    tar = Container().machine().add(".dockerenv").add("etc/resolv.conf").add("etc/hosts", b"172.17.0.2 x\n")
    tar.add("proc", type=tarfile.DIRTYPE).add("proc/1").add("dev/null", type=tarfile.CHRTYPE).add("run/lock/it")
    tar.add("etc/ssh/ssh_host_rsa_key", b"secret").add("etc/ssh/sshd_config")
    tar.add("opt/actions-runner/.credentials", b"secret")
    tarred.read(tar.tar(), files, keep=outfit.belongs)
    return files


def test_a_machine_is_fitted_out(machine: Files) -> None:
    outfit.check(machine)
    owner = outfit.fit_out(machine, Configuration(("PATH=/opt/bin:/bin", "A=1"), "/work"))
    assert owner == Owner(1001, 1001)
    assert machine.text("etc/hosts").startswith("127.0.0.1 localhost")
    assert machine.read("etc/machine-id") == b""
    assert "LABEL=ghvm-root / ext4" in machine.text("etc/fstab")
    assert machine.text("opt/actions-runner/.env") == "PATH=/opt/bin:/bin\nA=1\n"
    assert stat.S_IMODE(node(machine, "usr/lib/ghvm/agent").mode) == 0o755
    assert machine.has("etc/systemd/system/sysinit.target.wants/ghvm-agent.service")
    assert node(machine, "etc/systemd/system/apt-daily.timer").target == b"/dev/null"
    assert machine.names("proc") == machine.names("dev") == machine.names("run") == []
    assert not machine.has(".dockerenv")
    assert machine.names("etc/ssh") == ["sshd_config"]
    assert not machine.has("opt/actions-runner/.credentials")


def test_the_runners_user_is_added_once(machine: Files) -> None:
    machine.put("usr/bin/sudo", b"")
    first = users.add_runner(machine)
    passwd, group = machine.text("etc/passwd"), machine.text("etc/group")
    assert users.add_runner(machine) == first
    assert (machine.text("etc/passwd"), machine.text("etc/group")) == (passwd, group)
    assert "runner:x:1001:1001::/home/runner:/bin/bash\n" in passwd
    assert {"sudo:x:27:runner", "docker:x:999:other,runner", "runner:x:1001:"} <= set(group.splitlines())
    assert "runner:*:" in machine.text("etc/shadow")
    assert stat.S_IMODE(node(machine, "etc/sudoers.d/runner").mode) == 0o440
    assert node(machine, "home/runner").uid == 1001


def test_a_runner_of_the_images_own(machine: Files) -> None:
    machine.put("etc/passwd", b"runner:x:123:45::/srv:/bin/sh\n")
    assert users.add_runner(machine) == Owner(123, 45)
    assert machine.text("etc/passwd") == "runner:x:123:45::/srv:/bin/sh\n"


def test_what_the_image_has_in_the_runners_directories_is_the_runners(machine: Files) -> None:
    tar = Container().add("home/runner", type=tarfile.DIRTYPE, mode=0o700).add("home/runner/.profile", b"mine")
    tar.add("opt/actions-runner", type=tarfile.SYMTYPE, linkname="/srv")
    tarred.read(tar.tar(), machine)
    owner = outfit.fit_out(machine, Configuration(("A=1",)))
    home, root = node(machine, "home/runner"), node(machine, "opt/actions-runner")
    assert (home.uid, home.gid, stat.S_IMODE(home.mode)) == (owner.uid, owner.gid, 0o700)
    assert machine.read("home/runner/.profile") == b"mine"
    assert (root.is_directory, root.uid) == (True, owner.uid)
    runner = Container().add("./", type=tarfile.DIRTYPE, mode=0o755).add("./run.sh").tar()
    tarred.read(runner, machine, below=b"opt/actions-runner", owner=owner)
    assert machine.read("opt/actions-runner/.env") == b"A=1\n"


@pytest.mark.parametrize("number", ["", "x", "-1", "99999999999", "9" * 5000])
def test_a_runner_without_a_number(machine: Files, number: str) -> None:
    machine.put("etc/passwd", f"runner:x:{number}:45::/srv:/bin/sh\n".encode())
    with pytest.raises(UsageError, match="has no number"):
        users.add_runner(machine)


def test_no_number_is_left(machine: Files) -> None:
    machine.put("etc/passwd", "".join(f"u{one}:x:{one}:0::/:\n" for one in range(60_000)).encode())
    with pytest.raises(UsageError, match="between 1000 and 59999"):
        users.add_runner(machine)


def test_names_of_users_stay_what_they_are(machine: Files) -> None:
    odd = "somebody:x:5:5:J\xfcrgen \x85:/:\n".encode("latin-1")
    machine.put("etc/passwd", odd)
    users.add_runner(machine)
    assert (machine.read("etc/passwd") or b"").startswith(odd + b"runner:")


def test_a_list_of_users_that_is_too_large(machine: Files) -> None:
    machine.put("etc/passwd", b"x" * (5 * MIB))
    with pytest.raises(UsageError, match="too large"):
        users.add_runner(machine)
    assert len(machine.read("etc/passwd") or b"") == 5 * MIB


@pytest.mark.parametrize(
    ("without", "package"),
    [
        ("usr/lib/systemd/systemd", "systemd"),
        ("usr/sbin/init", "systemd-sysv"),
        ("usr/lib/systemd/systemd-udevd", "udev"),
    ],
)
def test_a_container_that_cannot_boot(files: Files, without: str, package: str) -> None:
    tarred.read(Container().machine(without=without).tar(), files)
    with pytest.raises(UsageError, match="cannot boot") as caught:
        outfit.check(files)
    assert package in (caught.value.resolution or "")


def test_the_newest_kernel_is_taken(machine: Files) -> None:
    machine.put("boot/vmlinuz-6.10.0", b"newer")
    machine.put("usr/lib/modules/6.10.0/modules.dep", b"")
    machine.directory("usr/lib/modules/7.0.0")
    found = kernel.find(machine, None)
    assert (found.version, found.image, found.config) == ("6.10.0", b"newer", None)


def test_a_version_that_no_kernel_has(machine: Files) -> None:
    machine.put("boot/vmlinuz-9.9\u00e9", b"odd")
    machine.put("usr/lib/modules/9.9\u00e9/modules.dep", b"")
    assert kernel.find(machine, None).version == VERSION


def test_a_kernel_that_cannot_be_read(machine: Files, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere cannot be read: No such file"):
        kernel.find(machine, tmp_path / "nowhere")


@pytest.mark.parametrize("header", [STATIC[:6], STATIC[:63]])
def test_half_a_busybox(header: bytes) -> None:
    assert not kernel.is_static(header)


def test_a_program_is_looked_at_in_an_instant() -> None:
    program = STATIC[:54] + (56).to_bytes(2, "little") + b"\xff\xff" + bytes(8 * MIB)
    started = time.process_time()
    assert kernel.is_static(program)
    assert time.process_time() - started < 5, "it copies what follows each header"


@pytest.mark.parametrize("content", [b"\xfd7zXZ\0 damaged", b"\x1f\x8b damaged", b"\x28\xb5\x2f\xfd damaged"])
def test_a_damaged_module(content: bytes) -> None:
    with pytest.raises(UsageError, match="module ext4 is damaged"):
        modules.in_order({"ext4": content}.get)


def test_modules_that_need_each_other() -> None:
    found = {"ext4": b"\0depends=jbd2\0", "jbd2": b"\0depends=ext4\0"}
    with pytest.raises(UsageError, match="need each other") as caught:
        modules.in_order(found.get)
    assert caught.value.details == "ext4 -> jbd2 -> ext4"


def test_an_image_without_a_kernel(files: Files, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no kernel") as caught:
        kernel.find(files, None)
    assert "linux-image-cloud-amd64" in (caught.value.resolution or "")
    (tmp_path / "vmlinuz").write_bytes(b"given")
    assert kernel.find(files, tmp_path / "vmlinuz").image == b"given"


def test_a_kernel_that_would_not_find_its_disk(machine: Files) -> None:
    kernel.check(kernel.find(machine, None))
    machine.put(f"boot/config-{VERSION}", b"CONFIG_VIRTIO_PCI=y\n# CONFIG_VIRTIO_BLK is not set\nCONFIG_VIRTIO_NET=m\n")
    with pytest.raises(UsageError, match="CONFIG_VIRTIO_BLK") as caught:
        kernel.check(kernel.find(machine, None))
    assert "linux-image-cloud-amd64" in (caught.value.resolution or "")


def test_the_small_initrd_is_made_of_a_static_busybox(machine: Files) -> None:
    assert kernel.busybox(machine) == containers.STATIC
    machine.put("usr/bin/busybox", Path("/bin/sh").resolve().read_bytes())  # needs libraries
    with pytest.raises(UsageError, match="busybox") as caught:
        kernel.busybox(machine)
    assert "busybox-static" in (caught.value.resolution or "")
    machine.put("usr/bin/busybox", b"#!/bin/sh")
    with pytest.raises(UsageError, match="busybox"):
        kernel.busybox(machine)


def test_what_docker_lacks_is_told(machine: Files) -> None:
    found = kernel.find(machine, None)
    assert kernel.docker_lacks(machine, found) == []
    machine.put("usr/bin/dockerd", b"")
    lacks = kernel.docker_lacks(machine, found)
    assert "CONFIG_OVERLAY_FS" in lacks
    assert not {"CONFIG_BRIDGE", "CONFIG_VETH"} & set(lacks)


def test_the_packages_that_dpkg_knows(files: Files) -> None:
    status = (
        "Package: b\nStatus: install ok installed\nVersion: 2:1.0-1\nDescription: x\n more: Version: 9\n\n"
        "Package: a\nStatus: install ok installed\nVersion: 3\n\n"
        "Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n"
    )
    files.put("var/lib/dpkg/status", status.encode())
    assert list(packages.installed(files).items()) == [("a", "3"), ("b", "2:1.0-1")]


def test_packages_that_no_manifest_takes(files: Files) -> None:
    said = ("Package: \nVersion: 1", "Package: a b\nVersion: 1", f"Package: {'x' * 256}\nVersion: 1")
    status = "\n\n".join(f"{one}\nStatus: install ok installed" for one in (*said, "Package: c\nVersion: \x1b[2J"))
    files.put("var/lib/dpkg/status", status.encode())
    assert packages.installed(files) == {}


# ---- the bundle ----


@pytest.fixture
def runner(tmp_path: Path) -> RunnerTarball:
    (tmp_path / "runner.tar").write_bytes(containers.runner())
    return RunnerTarball("2.337.0", datetime.date(2026, 11, 1), tmp_path / "runner.tar", "0" * 64, verified=True)


def make(tar: Container, runner: RunnerTarball, output: Path, **more: object) -> Manifest:
    wanted = Wanted("it", "x86_64", 64 * MIB, ("qemu",), output)
    told: list[str] = []
    changed = Wanted(**{**vars(wanted), **more})
    return bundle.build(tar.tar(), changed, runner, Configuration(), progress=lambda _: None, tell=told.append)


def test_a_bundle_is_what_its_manifest_says(runner: RunnerTarball, tmp_path: Path) -> None:
    manifest = make(Container().machine(), runner, tmp_path / "out")
    assert Manifest.parse((tmp_path / "out/it.json").read_bytes()) == manifest
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*manifest.artifacts, "it.json", ".it.lock"}
    assert {artifact.role for artifact in manifest.artifacts.values()} == {"disk", "kernel", "initrd", "kernel-config"}
    assert (manifest.kernel_version, manifest.runner_version) == (VERSION, "2.337.0")
    assert (tmp_path / "out" / str(manifest.boot.kernel)).read_bytes() == b"\x7fELF: a kernel"
    raw = tmp_path / "raw"
    process.run(["qemu-img", "convert", "-O", "raw", str(tmp_path / "out" / manifest.disk), str(raw)], timeout=60)
    disks.check(raw)
    listener = disks.stat(raw, "/opt/actions-runner/bin/Runner.Listener")
    assert (listener["Mode"], listener["User"]) == ("0755", "1001")
    info = json.loads(disks.content(raw, "/opt/actions-runner/.setup_info", tmp_path / "scratch"))
    assert "2.337.0" in info[0]["detail"]


def test_the_same_tar_gives_the_same_bytes(runner: RunnerTarball, tmp_path: Path) -> None:
    engines = ("qemu", "firecracker")
    first = make(Container().machine(), runner, tmp_path / "a", engines=engines)
    assert make(Container().machine(), runner, tmp_path / "b", engines=engines) == first
    assert make(Container().machine().add("more"), runner, tmp_path / "b", engines=engines) != first


def test_the_root_of_the_squashfs(runner: RunnerTarball, tmp_path: Path) -> None:
    tar = Container().machine().add(".", type=tarfile.DIRTYPE, mode=0o751)
    manifest = make(tar, runner, tmp_path, engines=("firecracker",))
    base = str(tmp_path / str(manifest.only("base")))
    listed = process.run(["env", "TZ=UTC", "unsquashfs", "-lln", base], timeout=60)
    root = next(line.split() for line in listed.splitlines() if line.endswith(" squashfs-root"))
    assert root == ["drwxr-x--x", "0/0", root[2], "2023-11-14", "22:13", "squashfs-root"]


def test_a_build_replaces_the_one_before(runner: RunnerTarball, tmp_path: Path) -> None:
    (tmp_path / "it.other.disk").touch()
    first = make(Container().machine(), runner, tmp_path)
    (tmp_path / "it.json.sig").touch()
    second = make(Container().machine().add("more", b"x"), runner, tmp_path)
    assert first.disk != second.disk
    assert not (tmp_path / first.disk).exists()
    assert (tmp_path / second.disk).exists()
    assert (tmp_path / "it.other.disk").exists(), "it is not ours"
    assert not (tmp_path / "it.json.sig").exists(), "it was the first one's"


def test_a_build_that_fails_leaves_what_was_there(runner: RunnerTarball, tmp_path: Path) -> None:
    manifest = make(Container().machine(), runner, tmp_path / "out")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    for tar in (Container().machine().add("../out"), Container().machine(without=f"boot/vmlinuz-{VERSION}")):
        with pytest.raises(UsageError):
            make(tar, runner, tmp_path / "out")
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before
    assert Manifest.parse((tmp_path / "out/it.json").read_bytes()) == manifest


def test_what_a_killed_build_left_goes_with_the_next(runner: RunnerTarball, tmp_path: Path) -> None:
    (tmp_path / ".it-dead_123").mkdir()
    (tmp_path / ".it-dead_123/raw").write_bytes(b"x")
    (tmp_path / "it.0123456789ab.disk").touch()
    make(Container().machine(), runner, tmp_path)
    assert not (tmp_path / ".it-dead_123").exists()
    assert not (tmp_path / "it.0123456789ab.disk").exists()


def test_a_build_of_another_image_goes_on_beside_it(runner: RunnerTarball, tmp_path: Path) -> None:
    other = Path(tempfile.mkdtemp(dir=tmp_path, prefix=".it-12-"))
    make(Container().machine(), runner, tmp_path)
    assert other.exists()


def test_an_output_that_is_no_directory(runner: RunnerTarball, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file cannot be made"):
        make(Container().machine(), runner, tmp_path / "file")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--from-tar", "nowhere", "--name", "it"), "nowhere cannot be read: No such file"),
        (("--from-tar", "root.tar", "--name", "it", "--kernel", "nowhere"), "The kernel nowhere cannot be read"),
        (("--from-tar", "root.tar"), "needs a --name"),
        (("--from-tar", "root.tar", "--name", "it", "--builder", "docker"), "are for a Dockerfile"),
        (("--from-tar", "root.tar", "--name", "it", "--size", "5T"), "at most 4.0 TiB"),
    ],
)
def test_mistakes_are_called_by_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], why: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "root.tar").write_bytes(Container().machine().tar().read())
    tarball = tmp_path / "actions-runner-linux-x64-2.337.0.tar.gz"
    tarball.write_bytes(gzip.compress(containers.runner()))
    result = CliRunner().invoke(command, [*arguments, "--arch", "x86_64", "--runner", str(tarball)])
    assert isinstance(result.exception, UsageError)
    assert why in str(result.exception)


def test_two_builds_of_one_image_at_once(runner: RunnerTarball, tmp_path: Path) -> None:
    with lock(tmp_path / ".it.lock"), pytest.raises(UsageError, match="Another process"):
        make(Container().machine(), runner, tmp_path)


def test_a_tarball_without_a_runner(runner: RunnerTarball, tmp_path: Path) -> None:
    runner.path.write_bytes(Container().add("README").tar().read())
    with pytest.raises(UsageError, match="holds no runner"):
        make(Container().machine(), runner, tmp_path)


def test_an_image_for_firecracker_alone_has_no_disk(runner: RunnerTarball, tmp_path: Path) -> None:
    manifest = make(Container().machine(), runner, tmp_path / "out", engines=("firecracker",))
    roles = {artifact.role for artifact in manifest.artifacts.values()} - {"kernel-config"}
    assert roles == {"base", "vmlinux", "kernel", "initrd"}


def test_the_squashfs_has_the_same_files(runner: RunnerTarball, tmp_path: Path) -> None:
    tar = Container().machine().add("d/a", b"content" * 1000, mode=0o4711, uid=7, gid=8)
    tar.add("d/b", type=tarfile.LNKTYPE, linkname="d/a").add("d/pipe", type=tarfile.FIFOTYPE)
    tar.add("d/ping", b"p", {"security.capability": "\x01\x00\x00\x02\x00 " + "\x00" * 14})
    tar.add("d/old", pax_headers={"mtime": "-5"}).add("d/late", pax_headers={"mtime": "1e12"})
    manifest = make(tar, runner, tmp_path / "out", engines=("qemu", "firecracker"))
    (base,) = [name for name, artifact in manifest.artifacts.items() if artifact.role == "base"]
    listed = process.run(["unsquashfs", "-lln", str(tmp_path / "out" / base)], timeout=60)
    lines = {line.split()[-1].removeprefix("squashfs-root/"): line.split() for line in listed.splitlines()}
    assert lines["d/a"][:3] == ["-rws--x--x", "7/8", "7000"]
    assert lines["d/pipe"][0].startswith("p")
    assert lines["opt/actions-runner/bin/Runner.Listener"][1] == "1001/1001"
    shown = process.run(["unsquashfs", "-cat", str(tmp_path / "out" / base), "d/b"], timeout=60)
    assert shown == "content" * 1000
