"""What an image server offers of a directory that changes."""

import hashlib
import json
from pathlib import Path

import pytest
import zstandard

from ghrunner_vm import files
from ghrunner_vm.clock import Clock
from ghrunner_vm.images.catalog import Catalog, Snapshot
from ghrunner_vm.images.compress import CompressedCache
from ghrunner_vm.images.manifest import Manifest

DISK = b"QFI\xfb\0\0\0\3" + b"x" * 5000


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Site:
    """A catalog over `images`, seen `ahead` seconds from now: later than QUIET_SECONDS, all files are quiet."""

    def __init__(self, root: Path) -> None:
        self.images = root / "images"
        self.images.mkdir()
        self.cache = root / "cache"
        self.warnings: list[str] = []
        self.ahead = 100.0
        self.read = 0
        self.catalog = self.anew()

    def anew(self) -> Catalog:
        clock = Clock(wall=lambda: Clock().wall() + self.ahead)
        return Catalog(self.images, CompressedCache(self.cache, self._count), warn=self.warnings.append, clock=clock)

    def refresh(self) -> Snapshot:
        snapshot = self.catalog.refresh()
        assert snapshot is not None
        return snapshot

    def _count(self) -> None:
        self.read += 1

    def write(self, file: str, content: bytes) -> None:
        (self.images / file).write_bytes(content)

    def bundle(self, name: str, kernel: bytes) -> None:
        manifest = {
            "schema": 1,
            "name": name,
            "arch": "x86_64",
            "engine": ["qemu"],
            "agent": 1,
            "runner-version": None,
            "boot": {"kernel": f"{name}.vmlinuz"},
            "artifacts": {
                f"{name}.qcow2": {"size": len(DISK), "sha256": sha256(DISK), "role": "disk"},
                f"{name}.vmlinuz": {"size": len(kernel), "sha256": sha256(kernel), "role": "kernel"},
            },
        }
        self.write(f"{name}.qcow2", DISK)
        self.write(f"{name}.vmlinuz", kernel)
        self.write(f"{name}.json", json.dumps(manifest).encode())


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_plain_image(site: Site) -> None:
    site.write("ubuntu.qcow2", DISK)
    snapshot = site.refresh()
    assert snapshot.images == ("ubuntu",)
    assert snapshot.texts == {"ubuntu.qcow2.sha256": f"{sha256(DISK)}\n".encode()}
    assert zstandard.decompress(snapshot.compressed["ubuntu.qcow2.zst"].read_bytes()) == DISK
    assert len(snapshot.commit) == 40
    int(snapshot.commit, 16)


def test_a_bundle_with_its_signature(site: Site) -> None:
    site.bundle("ubuntu", b"kernel")
    site.write("ubuntu.json.sig", b"signed")
    snapshot = site.refresh()
    assert set(snapshot.texts) == {"ubuntu.json", "ubuntu.json.sig", "ubuntu.qcow2.sha256"}
    assert set(snapshot.compressed) == {"ubuntu.qcow2.zst", "ubuntu.vmlinuz.zst"}
    assert Manifest.parse(snapshot.texts["ubuntu.json"]).name == "ubuntu"
    assert site.warnings == []


def test_the_same_content_gives_the_same_commit_and_is_not_read_again(site: Site) -> None:
    site.write("ubuntu.qcow2", DISK)
    first = site.refresh()
    site.read = 0
    assert site.anew().refresh() == first
    assert site.read == 0


def test_new_changed_and_removed_images_give_new_commits(site: Site) -> None:
    seen = [site.refresh().commit]
    site.write("a.qcow2", DISK)
    seen.append(site.refresh().commit)
    site.write("b.qcow2", DISK)
    seen.append(site.refresh().commit)
    site.write("b.qcow2", DISK + b"!")
    seen.append(site.refresh().commit)
    assert len(set(seen)) == 4
    (site.images / "b.qcow2").unlink()
    assert site.refresh().commit == seen[1]


def test_equal_contents_are_compressed_once(site: Site) -> None:
    site.write("a.qcow2", DISK)
    site.write("b.qcow2", DISK)
    snapshot = site.refresh()
    assert snapshot.compressed["a.qcow2.zst"] == snapshot.compressed["b.qcow2.zst"]
    assert [path.name for path in site.cache.glob("*.zst")] == [f"{sha256(DISK)}.zst"]


def test_a_file_that_is_being_written_is_left_out_until_it_is_quiet(site: Site) -> None:
    site.write("debian.qcow2", DISK)
    assert site.refresh().images == ("debian",)
    site.ahead = 0
    site.write("ubuntu.qcow2", DISK)
    assert site.refresh().images == ("debian",)
    site.ahead = 3
    assert site.refresh().images == ("debian", "ubuntu")


def test_nothing_is_served_while_the_first_image_is_being_written(site: Site) -> None:
    site.ahead = 0
    site.write("ubuntu.qcow2", DISK)
    assert site.catalog.refresh() is None
    site.ahead = 3
    assert site.refresh().images == ("ubuntu",)


def test_an_image_that_is_being_replaced_stays_until_the_new_one_is_whole(site: Site) -> None:
    site.write("ubuntu.qcow2", DISK)
    old = site.refresh()
    site.ahead = 0
    site.write("ubuntu.qcow2", DISK + b"half")
    assert site.refresh() == old
    site.ahead = 3
    assert site.refresh().commit != old.commit


@pytest.mark.parametrize("name", [".hidden.qcow2", "ubuntu.qcow2.tmp", "ubuntu.qcow2.part", "notes.txt"])
def test_other_files_are_not_served(site: Site, name: str) -> None:
    site.write(name, DISK)
    assert site.refresh().images == ()
    assert site.warnings == []


def test_what_is_no_image_is_ignored_with_one_warning(site: Site) -> None:
    site.write("raw.qcow2", b"not a disk")
    site.write("odd name.qcow2", DISK)
    site.write("spec.json", b"{}")
    site.write("good.qcow2", DISK)
    for _ in range(2):
        assert site.refresh().images == ("good",)
    assert sorted(warning.split(":")[1].split()[0] for warning in site.warnings) == ["'odd", "raw.qcow2", "spec.json"]


@pytest.mark.parametrize("file", ["ubuntu.qcow2", "ubuntu.json", "ubuntu.json.sig", "ubuntu.vmlinuz"])
def test_what_a_link_leads_to_is_not_served(site: Site, tmp_path: Path, file: str) -> None:
    site.bundle("ubuntu", b"kernel")
    site.write("ubuntu.json.sig", b"signed")
    assert site.refresh().images == ("ubuntu",)
    linked = site.images / file
    linked.rename(tmp_path / "elsewhere")
    linked.symlink_to(tmp_path / "elsewhere")
    site.catalog = site.anew()
    assert site.refresh().images == ()
    assert len(site.warnings) == 1


def test_a_bundle_that_is_not_what_its_manifest_says_is_ignored(site: Site) -> None:
    site.bundle("ubuntu", b"kernel")
    site.write("ubuntu.vmlinuz", b"KERNEL")
    assert site.refresh().images == ()
    (site.images / "ubuntu.vmlinuz").unlink()
    assert site.refresh().images == ()
    assert len(site.warnings) == 2


def test_a_lost_copy_is_made_again_and_a_dead_writers_leftover_goes(site: Site) -> None:
    site.write("ubuntu.qcow2", DISK)
    compressed = site.refresh().compressed["ubuntu.qcow2.zst"]
    compressed.unlink()
    (site.cache / ".dead.tmp").write_bytes(b"half")
    site.refresh()
    assert zstandard.decompress(compressed.read_bytes()) == DISK
    assert not (site.cache / ".dead.tmp").exists()


def copies(site: Site) -> set[str]:
    return {path.stem for path in site.cache.glob("*.zst")}


def test_copies_of_what_is_gone_are_deleted_once_nobody_is_served_them(site: Site) -> None:
    site.write("ubuntu.qcow2", DISK)
    first = site.refresh()
    site.write("ubuntu.qcow2", DISK + b"!")
    second = site.refresh()
    site.catalog.prune([first, second])
    assert copies(site) == {sha256(DISK), sha256(DISK + b"!")}
    site.catalog.prune([second])
    assert copies(site) == {sha256(DISK + b"!")}
    (site.images / "ubuntu.qcow2").unlink()
    site.catalog.prune([])
    assert copies(site) == set()


def test_copies_that_another_process_made_stay_while_their_files_are_there(site: Site, tmp_path: Path) -> None:
    site.write("ubuntu.qcow2", DISK)
    mine = site.refresh()
    elsewhere = tmp_path / "other.qcow2"
    elsewhere.write_bytes(b"other")
    CompressedCache(site.cache, lambda: None).prepare(elsewhere)
    site.catalog.prune([mine])
    assert copies(site) == {sha256(DISK), sha256(b"other")}
    elsewhere.unlink()
    site.catalog.prune([mine])
    assert copies(site) == {sha256(DISK)}


def test_nothing_is_deleted_while_somebody_compresses(site: Site) -> None:
    site.write("ubuntu.qcow2", DISK)
    site.refresh()
    (site.images / "ubuntu.qcow2").unlink()
    with files.lock(site.cache / ".lock"):
        site.catalog.prune([])
    assert copies(site) == {sha256(DISK)}


def test_a_broken_memo_costs_a_reading_only(site: Site) -> None:
    site.write("ubuntu.qcow2", DISK)
    first = site.refresh()
    (site.cache / "memo.json").write_bytes(b"[]")
    assert site.anew().refresh() == first
