"""Publishing into a directory."""

import json
import os
from pathlib import Path

import pytest

from ghrunner_vm import files
from ghrunner_vm.clock import Clock
from ghrunner_vm.config import load
from ghrunner_vm.errors import GhvmError, UsageError
from ghrunner_vm.images.catalog import Snapshot
from ghrunner_vm.images.compress import CompressedCache
from ghrunner_vm.images.directory_target import DirectoryTarget
from ghrunner_vm.images.http_target import HttpTarget
from ghrunner_vm.images.locking import nothing
from ghrunner_vm.images.publish import Published, publish, snapshot
from ghrunner_vm.images.signing import SigningKey, checked, sign
from tests.integration.images_site import bundle, disk

LATER = Clock(wall=lambda: Clock().wall() + 100)


class Place:
    """A directory of images, and one where they are published."""

    def __init__(self, root: Path) -> None:
        self.images, self.root, self._cache = root / "images", root / "www/site", root / "cache"
        self.images.mkdir()
        self.put("ubuntu", seed=1)

    def put(self, name: str, *, seed: int) -> None:
        artifacts = {f"{name}.qcow2": disk(seed, 1 << 18), f"{name}.kernel": b"kernel" * 100}
        for file, content in artifacts.items():
            (self.images / file).write_bytes(content)
        (self.images / f"{name}.json").write_bytes(bundle(name, artifacts).to_json())

    def snapshot(self, only: str | None = None) -> Snapshot:
        return snapshot(self.images, CompressedCache(self._cache, nothing), only=only, clock=LATER)

    def publish(self, only: str | None = None) -> Published:
        return publish(self.snapshot(only), DirectoryTarget(self.root))

    @property
    def latest(self) -> str:
        return (self.root / "latest").read_text()

    def has(self, commit: str) -> set[str]:
        return {path.name for path in (self.root / "images" / commit).iterdir()}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


FILES = {"ubuntu.json", "ubuntu.qcow2.zst", "ubuntu.kernel.zst", "ubuntu.qcow2.sha256"}


def test_what_is_published_is_what_a_server_of_that_directory_would_offer(place: Place) -> None:
    found = place.snapshot()
    done = place.publish()
    assert (done.commit, done.images) == (found.commit, ("ubuntu",))
    assert place.latest == found.commit
    assert place.has(found.commit) == FILES
    for file, text in found.texts.items():
        assert (place.root / "images" / found.commit / file).read_bytes() == text
    for file, path in found.compressed.items():
        assert (place.root / "images" / found.commit / file).read_bytes() == path.read_bytes()


def test_others_may_read_all_of_it_whatever_the_umask(place: Place) -> None:
    before = os.umask(0o077)
    try:
        done = place.publish()
    finally:
        os.umask(before)
    home = place.root / "images" / done.commit
    assert {path.stat().st_mode & 0o777 for path in home.iterdir()} == {0o644}
    assert {path.stat().st_mode & 0o777 for path in (place.root, home.parent, home)} == {0o755}


def test_a_second_publish_sends_nothing_large_again(place: Place) -> None:
    first = place.publish()
    kept = place.root / "images" / first.commit / "ubuntu.qcow2.zst"
    before = kept.stat().st_ino
    again = place.publish()
    assert again.commit == first.commit
    assert again.sent == sum(len(text) for text in place.snapshot().texts.values())
    assert kept.stat().st_ino == before


def test_an_image_that_is_signed_anew_takes_no_room_again(place: Place) -> None:
    first = place.publish()
    sign(checked(place.images / "ubuntu.json"), SigningKey.generate(), 5)
    second = place.publish()
    assert second.commit != first.commit
    assert place.latest == second.commit
    assert place.has(second.commit) == FILES | {"ubuntu.json.sig"}
    homes = [place.root / "images" / commit for commit in (first.commit, second.commit)]
    assert len({(home / "ubuntu.qcow2.zst").stat().st_ino for home in homes}) == 1


def test_a_file_that_is_not_whole_is_made_anew(place: Place) -> None:
    """What another program, or a full disk, has left under the name."""
    done = place.publish()
    file = place.root / "images" / done.commit / "ubuntu.qcow2.zst"
    whole = file.read_bytes()
    file.write_bytes(whole[:100])
    place.publish()
    assert file.read_bytes() == whole


def test_what_a_dead_publish_has_staged_goes(place: Place) -> None:
    done = place.publish()
    staged = place.root / "images" / done.commit / ".ubuntu.qcow2.zst.part"
    staged.write_bytes(b"half")
    (place.root / "images/other").mkdir()
    (place.root / "images/other/.x.part").write_bytes(b"half")
    place.publish()
    assert list(place.root.rglob("*.part")) == []


def test_all_images_share_a_commit_and_one_can_be_published_alone(place: Place) -> None:
    place.put("debian", seed=2)
    both = place.publish()
    assert both.images == ("debian", "ubuntu")
    alone = place.publish("debian")
    assert alone.images == ("debian",)
    assert place.latest == alone.commit
    assert {file.partition(".")[0] for file in place.has(alone.commit)} == {"debian"}
    assert place.has(both.commit) >= FILES


def test_nothing_is_published_of_a_directory_with_a_broken_image(place: Place) -> None:
    place.put("debian", seed=2)
    (place.images / "debian.kernel").write_bytes(b"another")
    with pytest.raises(GhvmError, match="so nothing is") as caught:
        place.publish()
    assert "debian.kernel: not what debian.json says" in str(caught.value.details)
    assert not place.root.exists()
    assert place.publish("ubuntu").images == ("ubuntu",)


def test_no_images_are_no_publish(place: Place, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no image debian"):
        place.publish("debian")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="there is no image in"):
        snapshot(tmp_path / "empty", CompressedCache(tmp_path / "cache", nothing), clock=LATER)


def test_files_that_are_being_written_are_waited_for(place: Place, tmp_path: Path) -> None:
    """One of two images is: without it the publish would take it away from hosts."""
    place.put("debian", seed=2)
    now = max(path.stat().st_ctime for path in place.images.iterdir())
    waited: list[float] = []
    clock = Clock(
        wall=lambda: now + sum(waited), monotonic=lambda: sum(waited), sleep=lambda seconds: waited.append(seconds)
    )
    found = snapshot(place.images, CompressedCache(tmp_path / "cache", nothing), clock=clock)
    assert found.images == ("debian", "ubuntu")
    assert waited
    frozen = Clock(wall=lambda: now, monotonic=lambda: sum(waited), sleep=lambda seconds: waited.append(seconds))
    with pytest.raises(GhvmError, match="still being written"):
        snapshot(place.images, CompressedCache(tmp_path / "cache", nothing), clock=frozen)


def test_two_publishes_do_not_meet(place: Place) -> None:
    place.publish()
    with DirectoryTarget(place.root).held(), pytest.raises(files.Locked), files.lock(place.root / ".lock", wait=False):
        pytest.fail("the lock was free")


def test_a_target_that_is_none(place: Place, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be published to"):
        publish(place.snapshot(), DirectoryTarget(tmp_path / "file/below"))


def test_a_token_is_never_sent_in_the_open() -> None:
    token = load({}, environ={"GHVM_PUBLISH_TOKEN": "hush"}, files=[]).publish_token
    for url in ("http://images.example", "ftp://images.example", "https://user:word@images.example"):
        with pytest.raises(UsageError, match="cannot be published to"):
            HttpTarget(url, token)
    for url in ("https://images.example", "http://127.0.0.1:1"):
        HttpTarget(url, token)
    HttpTarget("http://images.example")


def test_the_manifest_that_is_published_parses(place: Place) -> None:
    done = place.publish()
    assert json.loads((place.root / "images" / done.commit / "ubuntu.json").read_bytes())["name"] == "ubuntu"
