"""What disks, links and slow servers do to a pull or a lease: one clear error, and nothing is left."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ghrunner_vm.clock import Clock
from ghrunner_vm.errors import DiskFull, ExitCode
from ghrunner_vm.images.download import Patience
from ghrunner_vm.images.errors import CacheNotWritable, ImageCorrupt, ImageServerUnreachable, UnsafeCache
from ghrunner_vm.images.prune import prune
from ghrunner_vm.images.pull import PulledImage, pull
from ghrunner_vm.images.remote import ImageServer
from ghrunner_vm.images.space import RESERVE
from ghrunner_vm.images.store import ImageStore
from tests.integration.images_site import COMMIT, Site, bundle, disk, site
from tests.integration.mounts import as_root, read_only, small_disk
from tests.integration.virtual_clock import VirtualTime

NEW = "f" * 40


@pytest.fixture
def web() -> Iterator[Site]:
    with site() as mine:
        mine.offer("ubuntu", disk())
        yield mine


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "cache")


def fetch(store: ImageStore, web: Site, *, progress: Callable[[int, int | None], None] | None = None) -> PulledImage:
    with ImageServer(web.url) as server:
        return pull(store, server, "ubuntu", progress=progress)


def left(store: ImageStore) -> list[Path]:
    return [*(store.directory / ".staging").glob("*/[!.]*"), *(store.directory / ".trash").glob("*")]


# ---- a slow server ----


def test_a_trickle_is_given_up(store: ImageStore, web: Site) -> None:
    web.trickle = True
    time = VirtualTime()

    def half_a_minute_passes() -> float:
        time.now += 29
        return time.now

    slow = Clock(monotonic=half_a_minute_passes, sleep=time.clock.sleep)
    with (
        ImageServer(web.url, patience=Patience(tries=3), clock=slow) as server,
        pytest.raises(ImageServerUnreachable, match="slow") as caught,
    ):
        pull(store, server, "ubuntu")
    assert "fewer than 64.0 KiB" in (caught.value.details or "")
    assert len(web.downloads()) == 3
    assert store.images() == []


def test_a_slow_disk_is_not_held_against_the_server(store: ImageStore, web: Site) -> None:
    time = VirtualTime()

    def an_hour_passes(_done: int, _total: int | None) -> None:
        time.now += 3600

    with ImageServer(web.url, clock=time.clock) as server:
        pull(store, server, "ubuntu", progress=an_hour_passes)
    assert len(web.downloads()) == 1


def test_headers_that_never_end_are_given_up(store: ImageStore, web: Site) -> None:
    web.trickled_headers = True
    with (
        ImageServer(web.url, patience=Patience(answer=0.2)) as server,
        pytest.raises(ImageServerUnreachable) as caught,
    ):
        pull(store, server, "ubuntu")
    assert "no answer after" in (caught.value.details or "")


# ---- a full disk ----


@as_root
def test_an_image_of_a_known_size_that_does_not_fit_is_not_begun(tmp_path: Path, web: Site) -> None:
    artifacts = {"ubuntu.qcow2": disk()}
    web.offer_bundle(bundle("ubuntu", artifacts), artifacts)
    with small_disk(tmp_path / "small", RESERVE + (2 << 20)) as small:
        store = ImageStore(small)
        with pytest.raises(DiskFull) as caught:
            fetch(store, web)
        assert left(store) == []
    assert caught.value.exit_code == ExitCode.INFRASTRUCTURE
    assert str(small) in (caught.value.details or "")
    assert "3.0 MiB more is needed" in (caught.value.details or "")
    assert web.downloads() == []


@as_root
def test_a_disk_that_fills_up_while_an_image_is_written(tmp_path: Path, web: Site) -> None:
    with small_disk(tmp_path / "small", 2 << 20) as small:
        store = ImageStore(small)
        with pytest.raises(DiskFull) as caught:
            fetch(store, web)
        assert left(store) == []
    assert str(small) in (caught.value.details or "")


def fill(directory: Path) -> None:
    with contextlib.suppress(OSError), (directory / "filler").open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


@as_root
def test_a_disk_that_is_full_when_the_records_are_written(tmp_path: Path, web: Site) -> None:
    web.etag = None  # so that no part is kept, whose end would make room
    with small_disk(tmp_path / "small", 8 << 20) as small:
        store = ImageStore(small)

        def fill_at_the_end(done: int, total: int | None) -> None:
            if done == total:
                fill(small)

        with pytest.raises(DiskFull):
            fetch(store, web, progress=fill_at_the_end)
        assert left(store) == []
        assert store.images() == []
        (small / "filler").unlink()
        assert fetch(store, web).fetched


@as_root
def test_a_full_disk_does_not_keep_an_image_from_being_used(tmp_path: Path, web: Site) -> None:
    with small_disk(tmp_path / "small", 8 << 20) as small:
        store = ImageStore(small)
        fetch(store, web)
        os.utime(store.path(COMMIT, "ubuntu") / "ubuntu.qcow2")  # so that it is hashed, and the record should change
        fill(small)
        with store.lease(COMMIT, "ubuntu") as image:
            assert os.pread(image.disk_fd, 1 << 30, 0) == disk()


# ---- a cache that cannot be written ----


@as_root
@pytest.mark.parametrize("touched", [False, True])
def test_an_image_in_a_read_only_cache_can_be_used(store: ImageStore, web: Site, touched: bool) -> None:
    fetch(store, web)
    if touched:
        os.utime(store.path(COMMIT, "ubuntu") / "ubuntu.qcow2")
    with read_only(store.directory):
        again = ImageStore(store.directory)
        assert not fetch(again, web).fetched
        assert again.newest("ubuntu") == COMMIT
        with again.lease(COMMIT, "ubuntu") as image:
            assert os.pread(image.disk_fd, 1 << 30, 0) == disk()
            assert [cached.in_use for cached in again.images()] == [True]
        assert prune(again) == []


@as_root
def test_a_read_only_cache_says_so(store: ImageStore, web: Site) -> None:
    fetch(store, web)
    web.offer("ubuntu", disk(2), commit=NEW)
    with read_only(store.directory):
        with pytest.raises(CacheNotWritable) as caught:
            fetch(store, web)
        with pytest.raises(CacheNotWritable):
            ImageStore(store.directory / "new")
        with pytest.raises(CacheNotWritable):
            store.remove(COMMIT, "ubuntu")
    assert caught.value.exit_code == ExitCode.PERMANENT
    assert str(store.directory) in (caught.value.details or "")


@as_root
def test_a_corrupt_image_in_a_read_only_cache_names_what_to_remove(store: ImageStore, web: Site) -> None:
    fetch(store, web)
    path = store.path(COMMIT, "ubuntu")
    _replace(path / "ubuntu.qcow2", disk(2))
    with read_only(store.directory), pytest.raises(ImageCorrupt) as caught, store.lease(COMMIT, "ubuntu"):
        pass
    assert str(path) in (caught.value.resolution or "")


# ---- links, and files that are swapped ----


def _lease(store: ImageStore, _web: Site) -> None:
    with store.lease(COMMIT, "ubuntu"):
        pass


def _fetch_new(store: ImageStore, web: Site) -> None:
    web.offer("ubuntu", disk(2), commit=NEW)
    fetch(store, web)


def _remove(store: ImageStore, _web: Site) -> None:
    store.remove(COMMIT, "ubuntu")


def _reopen(store: ImageStore, _web: Site) -> None:
    ImageStore(store.directory)


@pytest.mark.parametrize("dangling", [False, True])
@pytest.mark.parametrize(
    ("link", "use"),
    [
        (".", _reopen),
        (COMMIT, _lease),
        (f"{COMMIT}/ubuntu", _lease),
        (f"{COMMIT}/ubuntu/ubuntu.qcow2", _lease),
        (f"{COMMIT}/ubuntu/manifest.json", _lease),
        (f"{COMMIT}/ubuntu/verified.json", _lease),
        (f"{COMMIT}/ubuntu/lease", _lease),
        (".staging", _fetch_new),
        (".staging/ubuntu", _fetch_new),
        (".staging/ubuntu/.lock", _fetch_new),
        (f".staging/ubuntu/{NEW}", _fetch_new),
        (".trash", _remove),
    ],
)
def test_a_link_anywhere_in_the_cache_is_refused(
    store: ImageStore, web: Site, link: str, use: Callable[[ImageStore, Site], None], dangling: bool
) -> None:
    fetch(store, web)
    path = store.directory / link
    target = store.directory.parent / "elsewhere"
    if path.exists():
        path.rename(target)
    else:
        target.mkdir()
    path.symlink_to("/nonexistent" if dangling else target)
    with pytest.raises(UnsafeCache) as caught:
        use(store, web)
    assert caught.value.details == f"{path}: a symbolic link"
    assert caught.value.exit_code == ExitCode.PERMANENT


def _replace(path: Path, content: bytes) -> None:
    new = path.with_name("new")
    new.write_bytes(content)
    new.chmod(0o444)
    new.replace(path)


def test_a_file_that_is_swapped_after_it_was_verified_changes_nothing(store: ImageStore, web: Site) -> None:
    fetch(store, web)
    with store.lease(COMMIT, "ubuntu") as image:
        _replace(store.path(COMMIT, "ubuntu") / "ubuntu.qcow2", disk(2))
        assert os.pread(image.disk_fd, 1 << 30, 0) == disk()
        with pytest.raises(ImageCorrupt), store.lease(COMMIT, "ubuntu"):
            pass
        assert os.pread(image.disk_fd, 1 << 30, 0) == disk()
    assert fetch(store, web).fetched
