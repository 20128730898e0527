"""A download goes on where an earlier process stopped, and whatever that one left costs time only."""

import multiprocessing
import os
import re
import signal
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from ghrunner_vm.clock import Clock
from ghrunner_vm.images.download import Patience
from ghrunner_vm.images.errors import ImageCorrupt, ImageServerUnreachable, PullCancelled
from ghrunner_vm.images.part import Origin, Part
from ghrunner_vm.images.prune import prune
from ghrunner_vm.images.pull import pull
from ghrunner_vm.images.remote import ImageServer
from ghrunner_vm.images.space import RESERVE
from ghrunner_vm.images.store import ImageStore
from tests.integration.images_site import COMMIT, WAIT_SECONDS, Site, bundle, compressed, disk, site
from tests.integration.mounts import as_root, small_disk

NO_PAUSE = Clock(sleep=lambda _seconds: None)
SPAWN = multiprocessing.get_context("spawn")
CUT = 400_000


@pytest.fixture
def web() -> Iterator[Site]:
    with site() as mine:
        mine.offer("ubuntu", disk())
        yield mine


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "cache")


def fetch(store: ImageStore, web: Site) -> bytes:
    """Pull it, see that nothing but the image is left, and give the disk's content."""
    with ImageServer(web.url, patience=Patience(tries=2), clock=NO_PAUSE) as server:
        pull(store, server, "ubuntu")
    assert left(store) == []
    with store.lease(COMMIT, "ubuntu") as image:
        return os.pread(image.disk_fd, 1 << 30, 0)


def interrupt(store: ImageStore, web: Site) -> Path:
    """A pull that ends after CUT bytes because the server dies; gives what it left."""
    web.cuts, web.cut_always = [CUT], 0
    with pytest.raises(ImageServerUnreachable):
        fetch(store, web)
    web.cut_always = None
    web.requests.clear()
    (kept,) = left(store)
    return kept


def left(store: ImageStore) -> list[Path]:
    return list((store.directory / ".staging").glob("*/*/*"))


def ranges(web: Site) -> list[str | None]:
    return [asked for _, asked in web.downloads()]


def test_the_next_pull_goes_on_where_the_server_died(store: ImageStore, web: Site) -> None:
    interrupt(store, web)
    assert fetch(store, web) == disk()
    assert ranges(web) == [f"bytes={CUT}-"]


def test_it_can_be_interrupted_again_and_again(store: ImageStore, web: Site) -> None:
    interrupt(store, web)
    interrupt(store, web)
    assert fetch(store, web) == disk()
    assert ranges(web) == [f"bytes={2 * CUT}-"]


def _pull_and_tell(directory: Path, url: str, arrived: Connection) -> None:
    with ImageServer(url) as server:
        pull(ImageStore(directory), server, "ubuntu", progress=lambda done, _total: arrived.send(done))


def test_a_killed_pull_leaves_only_staging_and_the_next_one_goes_on(store: ImageStore, web: Site) -> None:
    web.hold_after = 1_300_000
    ours, theirs = SPAWN.Pipe(duplex=False)
    process = SPAWN.Process(target=_pull_and_tell, args=(store.directory, web.url, theirs))
    process.start()
    theirs.close()
    assert ours.poll(WAIT_SECONDS)
    process.kill()
    process.join(WAIT_SECONDS)
    ours.close()
    assert process.exitcode == -signal.SIGKILL
    assert store.images() == []
    assert sorted(path.name for path in left(store)) == [".ubuntu.qcow2.part", "ubuntu.qcow2"]
    web.requests.clear()
    assert fetch(store, web) == disk()
    (asked,) = ranges(web)
    assert re.fullmatch(r"bytes=[1-9]\d*-", asked or "")


def test_a_cancelled_pull_is_gone_on_with(store: ImageStore, web: Site) -> None:
    done: list[int] = []
    with ImageServer(web.url) as server, pytest.raises(PullCancelled):
        pull(store, server, "ubuntu", progress=lambda at, _: done.append(at), cancelled=lambda: bool(done))
    web.requests.clear()
    assert fetch(store, web) == disk()
    assert ranges(web) != [None]


def test_all_of_it_may_be_there_already(store: ImageStore, web: Site) -> None:
    kept = interrupt(store, web)
    content = compressed(disk())
    with kept.open("ab") as file:
        file.write(content[CUT:])
    assert fetch(store, web) == disk()
    assert web.downloads() == []


def test_a_file_that_has_changed_is_fetched_from_its_start(store: ImageStore, web: Site) -> None:
    interrupt(store, web)
    web.etag = '"second"'
    assert fetch(store, web) == disk()
    assert ranges(web) == [f"bytes={CUT}-", None]


def test_a_server_without_ranges_is_asked_for_everything(store: ImageStore, web: Site) -> None:
    interrupt(store, web)
    web.ranges = False
    assert fetch(store, web) == disk()
    assert ranges(web) == [f"bytes={CUT}-", None]


def test_nothing_is_kept_of_a_file_that_cannot_be_recognized(store: ImageStore, web: Site) -> None:
    web.etag, web.cuts, web.cut_always = None, [CUT], 0
    with pytest.raises(ImageServerUnreachable):
        fetch(store, web)
    assert left(store) == []


def _flip_a_bit(kept: Path) -> None:
    content = bytearray(kept.read_bytes())
    content[CUT // 2] ^= 1
    kept.write_bytes(content)


def _swap_the_content(kept: Path) -> None:
    head = kept.read_bytes().partition(b"\n")[0]
    kept.write_bytes(head + b"\n" + compressed(disk(2)))


def _append(kept: Path) -> None:
    kept.write_bytes(kept.read_bytes() + bytes(5 << 20))


@pytest.mark.parametrize("damage", [_flip_a_bit, _swap_the_content, _append])
def test_a_damaged_part_costs_time_only(store: ImageStore, web: Site, damage: Callable[[Path], None]) -> None:
    damage(interrupt(store, web))
    assert fetch(store, web) == disk()
    assert ranges(web)[-1] is None


def _empty(kept: Path) -> None:
    kept.write_bytes(b"")


def _no_head(kept: Path) -> None:
    kept.write_bytes(bytes(1 << 20))


def _other_address(kept: Path) -> None:
    kept.write_bytes(kept.read_bytes().replace(b"127.0.0.1", b"127.0.0.2"))


def _link(kept: Path) -> None:
    kept.rename(kept.with_name("elsewhere"))
    kept.symlink_to("elsewhere")


def _fifo(kept: Path) -> None:
    kept.unlink()
    os.mkfifo(kept)


@pytest.mark.parametrize("damage", [_empty, _no_head, _other_address, _link, _fifo])
def test_what_is_no_part_of_this_file_is_not_used(store: ImageStore, web: Site, damage: Callable[[Path], None]) -> None:
    damage(interrupt(store, web))
    assert fetch(store, web) == disk()
    assert ranges(web) == [None]


def test_nothing_is_kept_of_a_corrupt_image(store: ImageStore, web: Site) -> None:
    interrupt(store, web)
    web.files[f"/images/{COMMIT}/ubuntu.qcow2.zst"] = compressed(disk(2))
    with pytest.raises(ImageCorrupt):
        fetch(store, web)
    assert len(web.downloads()) == 2
    assert left(store) == []


def test_prune_keeps_it_for_a_day(store: ImageStore, web: Site) -> None:
    kept = interrupt(store, web)
    prune(store)
    assert kept.exists()
    tomorrow = Clock(wall=lambda: Clock().wall() + 90_000)
    prune(ImageStore(store.directory, clock=tomorrow))
    assert not kept.parent.exists()


def test_another_commit_clears_it(store: ImageStore, web: Site) -> None:
    kept = interrupt(store, web)
    web.offer("ubuntu", disk(2), commit="f" * 40)
    with ImageServer(web.url) as server:
        pull(store, server, "ubuntu")
    assert not kept.parent.exists()


@as_root
def test_a_part_gives_way_to_the_image_it_belongs_to(tmp_path: Path, web: Site) -> None:
    artifacts = {"ubuntu.qcow2": disk()}
    web.offer_bundle(bundle("ubuntu", artifacts), artifacts)
    with small_disk(tmp_path / "small", RESERVE + (3 << 20) + CUT // 2) as small:
        store = ImageStore(small)
        interrupt(store, web)
        assert fetch(store, web) == disk()
    assert ranges(web) == [None]


@as_root
def test_a_part_gives_way_while_its_image_is_written(tmp_path: Path, web: Site) -> None:
    """There is room for the image, but not for what is kept of its download as well."""
    large = disk(size=160 << 20) + bytes(360 << 20)
    artifacts = {"ubuntu.qcow2": large}
    web.offer_bundle(bundle("ubuntu", artifacts), artifacts)
    with small_disk(tmp_path / "small", RESERVE + len(large) + (20 << 20)) as small:
        store = ImageStore(small)
        with ImageServer(web.url, clock=NO_PAUSE) as server:
            assert pull(store, server, "ubuntu").fetched
        assert left(store) == []


@as_root
def test_a_part_that_does_not_fit_on_the_disk_is_given_up(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", 1 << 20) as small:
        part = Part(small / ".disk.part")
        part.begin(Origin(url="http://host/disk", validator='"x"', length=None))
        for _ in range(32):
            part.append(bytes(64 << 10))
        part.close()
        assert list(small.iterdir()) == []
