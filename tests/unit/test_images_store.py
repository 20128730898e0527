"""The image cache on a real file system: leases, verification, pruning."""

import hashlib
import os
from errno import ENOSPC
from pathlib import Path

import pytest
import zstandard

from ghrunner_vm import files
from ghrunner_vm.clock import Clock
from ghrunner_vm.errors import InfrastructureError, UsageError
from ghrunner_vm.images.errors import ImageCorrupt, ImageMissing, UnsafeCache
from ghrunner_vm.images.locking import lock_within
from ghrunner_vm.images.manifest import Manifest
from ghrunner_vm.images.prune import PrunedImage, prune
from ghrunner_vm.images.space import free_bytes, require_space
from ghrunner_vm.images.store import ImageStore
from ghrunner_vm.images.unpack import Expected, unpack
from ghrunner_vm.images.verify import Record, opened, verified

CONTENT = b"QFI\xfb" + b"x" * 5000


class Counting:
    """A SHA-256 that tells how many bytes all of its kind have read."""

    read = 0

    def __init__(self) -> None:
        self._inner = hashlib.sha256()

    def update(self, data: bytes | memoryview, /) -> None:
        Counting.read += len(data)
        self._inner.update(data)

    def hexdigest(self) -> str:
        return self._inner.hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    Counting.read = 0
    return ImageStore(tmp_path / "cache", new_hash=Counting, clock=Clock(wall=lambda: 2000.0))


def put(store: ImageStore, commit: str, name: str = "ubuntu", *, completed: int = 1000) -> Path:
    """An image as a pull leaves it; gives its disk."""
    manifest = Manifest.plain(name, sha256=hashlib.sha256(CONTENT).hexdigest(), size=len(CONTENT))
    with store.staging(commit, name) as staging:
        disk = staging / manifest.disk
        disk.write_bytes(CONTENT)
        disk.chmod(0o444)
        with opened(disk) as descriptor:
            record = Record(files={manifest.disk: verified(descriptor)})
        store.publish(staging, manifest, record, commit)
    path = store.path(commit, name)
    os.utime(path / "manifest.json", (completed, completed))
    return path / manifest.disk


def commits(store: ImageStore) -> list[str]:
    return [image.commit for image in store.images()]


def test_a_lease_gives_an_open_file_at_its_start(store: ImageStore) -> None:
    put(store, "one")
    with store.lease("one", "ubuntu") as image:
        assert os.read(image.disk_fd, 1 << 20) == CONTENT
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(image.disk_fd, b"x")
        assert not os.get_inheritable(image.disk_fd)


def test_an_unchanged_file_is_not_read_again(store: ImageStore) -> None:
    put(store, "one")
    with store.lease("one", "ubuntu"):
        assert Counting.read == 0
    with store.lease("one", "ubuntu", full=True):
        assert Counting.read == len(CONTENT)


def test_a_touched_file_is_read_once(store: ImageStore) -> None:
    os.utime(put(store, "one"))
    for _ in range(2):
        with store.lease("one", "ubuntu"):
            assert Counting.read == len(CONTENT)


@pytest.mark.parametrize("restore_mtime", [False, True])
def test_a_tampered_file_is_found_and_put_aside(store: ImageStore, restore_mtime: bool) -> None:
    path = put(store, "one")
    before = path.stat()
    path.chmod(0o644)
    path.write_bytes(CONTENT[:-1] + b"y")
    path.chmod(0o444)
    if restore_mtime:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(ImageCorrupt) as caught, store.lease("one", "ubuntu"):
        pass
    assert hashlib.sha256(CONTENT).hexdigest() in (caught.value.details or "")
    assert not store.has("one", "ubuntu")
    with pytest.raises(ImageMissing), store.lease("one", "ubuntu"):
        pass


@pytest.mark.parametrize("lost", ["ubuntu.qcow2", "manifest.json"])
def test_an_incomplete_image_is_put_aside(store: ImageStore, lost: str) -> None:
    (put(store, "one").parent / lost).unlink()
    assert not store.has("one", "ubuntu")
    with pytest.raises(ImageCorrupt), store.lease("one", "ubuntu"):
        pass
    put(store, "one")
    with store.lease("one", "ubuntu"):
        pass


@pytest.mark.parametrize("record", [b"", b"{}", b'{"schema":1,"files":{"ubuntu.qcow2":{}}}', b"\xff"])
def test_an_unreadable_record_means_hashing(store: ImageStore, record: bytes) -> None:
    files.write_atomically(put(store, "one").parent / "verified.json", record)
    with store.lease("one", "ubuntu"):
        assert Counting.read == len(CONTENT)


def test_an_image_that_is_pruned_while_leased_stays(store: ImageStore) -> None:
    for age, commit in enumerate(("new", "middle", "old")):
        put(store, commit, completed=1000 - age)
    with store.lease("old", "ubuntu"):
        assert prune(store) == []
        assert [(image.commit, image.in_use) for image in store.images()] == [
            ("new", False),
            ("middle", False),
            ("old", True),
        ]
    pruned = prune(store)
    assert [(image.commit, image.name) for image in pruned] == [("old", "ubuntu")]
    assert pruned[0].bytes > len(CONTENT)
    assert commits(store) == ["new", "middle"]
    assert not (store.directory / "old").exists()


def test_a_child_that_inherited_the_lease_keeps_the_image(store: ImageStore) -> None:
    put(store, "old", completed=1)
    put(store, "new", completed=2)
    with store.lease("old", "ubuntu") as image:
        inherited = os.dup(image.lease_fd)
    assert prune(store, keep=1) == []
    os.close(inherited)
    assert [image.commit for image in prune(store, keep=1)] == ["old"]


def test_prune_keeps_by_name(store: ImageStore) -> None:
    for age, commit in enumerate(("a", "b", "c")):
        put(store, commit, completed=100 - age)
    put(store, "c", "debian", completed=1)
    assert {(image.commit, image.name) for image in prune(store, keep=1)} == {("b", "ubuntu"), ("c", "ubuntu")}
    assert {(image.commit, image.name) for image in store.images()} == {("a", "ubuntu"), ("c", "debian")}
    assert all(isinstance(image, PrunedImage) for image in prune(store))
    with pytest.raises(ValueError, match="at least 1"):
        prune(store, keep=0)


def test_prune_clears_staging_that_nobody_holds(store: ImageStore) -> None:
    with store.staging("one", "ubuntu") as held:
        (held / "part").touch()
        dead = store.directory / ".staging" / "debian" / "two"
        dead.mkdir(parents=True)
        (store.directory / "empty").mkdir()
        prune(store)
        assert not (store.directory / "empty").exists()
        assert (held / "part").exists()
        assert not dead.exists()


def test_the_newest_is_what_was_completed_last(store: ImageStore) -> None:
    assert store.newest("ubuntu") is None
    put(store, "b", completed=1500)
    put(store, "a", completed=1600)
    put(store, "z", completed=1400)
    assert store.newest("ubuntu") == "a"
    assert [image.age_seconds for image in store.images()] == [400, 500, 600]


def test_a_symbolic_link_in_the_cache_is_refused(store: ImageStore, tmp_path: Path) -> None:
    put(store, "one").parent.rename(tmp_path / "elsewhere")
    (store.directory / "one" / "ubuntu").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsafeCache) as caught, store.lease("one", "ubuntu"):
        pass
    assert "symbolic link" in (caught.value.details or "")
    assert store.images() == []


def test_a_linked_artifact_is_refused(store: ImageStore, tmp_path: Path) -> None:
    disk = put(store, "one")
    disk.rename(tmp_path / "disk")
    disk.symlink_to(tmp_path / "disk")
    with pytest.raises(UnsafeCache), store.lease("one", "ubuntu"):
        pass


def test_what_others_may_write_is_refused(store: ImageStore) -> None:
    disk = put(store, "one")
    disk.chmod(0o466)
    with pytest.raises(UnsafeCache), store.lease("one", "ubuntu"):
        pass
    disk.chmod(0o444)
    store.directory.chmod(0o777)
    with pytest.raises(UnsafeCache):
        ImageStore(store.directory)


def test_a_fifo_does_not_hang(store: ImageStore) -> None:
    disk = put(store, "one")
    disk.unlink()
    os.mkfifo(disk, 0o444)
    with pytest.raises(UnsafeCache), store.lease("one", "ubuntu"):
        pass


@pytest.mark.parametrize(("commit", "name"), [("..", "ubuntu"), ("one", "../ubuntu"), (".staging", "ubuntu")])
def test_names_with_paths_are_refused(store: ImageStore, commit: str, name: str) -> None:
    with pytest.raises(UsageError), store.lease(commit, name):
        pass


def test_waiting_for_a_lock_has_a_deadline_and_a_way_out(tmp_path: Path) -> None:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    clock = Clock(monotonic=lambda: now[0], sleep=sleep)
    path = tmp_path / "lock"

    def stop() -> None:
        if now[0] > 1:
            raise KeyboardInterrupt

    with files.lock(path):
        with pytest.raises(InfrastructureError, match="more than 5 s"), lock_within(path, 5, clock=clock):
            pass
        with pytest.raises(KeyboardInterrupt), lock_within(path, 5, clock=clock, check=stop):
            pass
    with lock_within(path, 5, clock=clock):
        pass


def test_a_disk_without_room_is_told_with_figures(tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError) as caught:
        require_space(tmp_path, free_bytes(tmp_path))
    assert "is free" in (caught.value.details or "")


def test_a_disk_that_fills_up_is_told_with_figures(tmp_path: Path) -> None:
    class Full(Counting):
        def update(self, data: bytes | memoryview, /) -> None:
            raise OSError(ENOSPC, "No space left on device", len(data))

    stream = iter([zstandard.compress(b"content")])
    with pytest.raises(InfrastructureError, match="too full"):
        unpack(
            stream,
            tmp_path / "disk",
            Expected(10, 4 << 20),
            room=lambda _: None,
            written=lambda _done, _total: None,
            new_hash=Full,
        )
