"""Pulling images over real HTTP from a server that does not always behave."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from ghrunner_vm.clock import Clock
from ghrunner_vm.commands.images import images
from ghrunner_vm.errors import ExitCode, GhvmError, InfrastructureError, UsageError
from ghrunner_vm.images.download import Patience
from ghrunner_vm.images.errors import ImageCorrupt, ImageMissing, ImageServerUnreachable, PullCancelled
from ghrunner_vm.images.manifest import Manifest
from ghrunner_vm.images.pull import PulledImage, pull
from ghrunner_vm.images.remote import ImageServer
from ghrunner_vm.images.store import ImageStore
from tests.integration.images_site import COMMIT, WAIT_SECONDS, Site, bundle, compressed, disk, sha256, site

NO_PAUSE = Clock(sleep=lambda _seconds: None)
SPAWN = multiprocessing.get_context("spawn")
OTHER = "f" * 40


@pytest.fixture
def web() -> Iterator[Site]:
    with site() as mine:
        yield mine


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "cache")


def fetch(store: ImageStore, web: Site, name: str = "ubuntu", *, tries: int = 3, read: float = 10.0) -> PulledImage:
    with ImageServer(web.url, patience=Patience(read=read, tries=tries), clock=NO_PAUSE) as server:
        return pull(store, server, name)


def content(store: ImageStore, name: str = "ubuntu") -> bytes:
    with store.lease(COMMIT, name) as image:
        return os.pread(image.disk_fd, 1 << 30, 0)


def staged(store: ImageStore, name: str = "ubuntu") -> list[Path]:
    return list((store.directory / ".staging" / name).glob("*/*"))


def test_a_plain_image_arrives_and_is_fetched_once(store: ImageStore, web: Site) -> None:
    web.offer("ubuntu", disk())
    assert fetch(store, web) == PulledImage(COMMIT, "ubuntu", fetched=True, bytes=3 << 20)
    assert content(store) == disk()
    assert fetch(store, web) == PulledImage(COMMIT, "ubuntu", fetched=False, bytes=0)
    assert len(web.downloads()) == 1
    assert staged(store) == []


def test_a_pull_leaves_read_only_files_and_a_record_that_saves_the_first_hash(tmp_path: Path, web: Site) -> None:
    web.offer("ubuntu", disk())
    fetch(ImageStore(tmp_path / "cache"), web)

    def refuse() -> None:
        pytest.fail("the file was read again")

    again = ImageStore(tmp_path / "cache", new_hash=refuse)  # type: ignore[arg-type]  # it must not be called
    with again.lease(COMMIT, "ubuntu") as image:
        assert image.manifest.artifacts["ubuntu.qcow2"].size == 3 << 20
    modes = {path.name: path.stat().st_mode & 0o777 for path in again.path(COMMIT, "ubuntu").iterdir()}
    assert modes == {"ubuntu.qcow2": 0o444, "manifest.json": 0o444, "verified.json": 0o444, "lease": 0o600}


def test_a_bundle_arrives_with_all_its_artifacts(store: ImageStore, web: Site) -> None:
    artifacts = {"ubuntu.qcow2": disk(), "ubuntu.kernel": b"kernel" * 1000}
    web.offer_bundle(bundle("ubuntu", artifacts), artifacts)
    assert fetch(store, web).bytes == sum(map(len, artifacts.values()))
    with store.lease(COMMIT, "ubuntu") as image:
        assert {name: os.pread(fd, 1 << 30, 0) for name, fd in image.files.items()} == artifacts
        assert image.manifest == bundle("ubuntu", artifacts)


def test_progress_ends_at_the_total(store: ImageStore, web: Site) -> None:
    web.offer("ubuntu", disk())
    heard: list[tuple[int, int | None]] = []
    with ImageServer(web.url) as server:
        pull(store, server, "ubuntu", progress=lambda done, total: heard.append((done, total)))
    assert heard[-1] == (3 << 20, 3 << 20)
    assert heard == sorted(heard)


def test_a_broken_connection_goes_on_where_it_broke(store: ImageStore, web: Site) -> None:
    web.offer("ubuntu", disk())
    web.cuts = [100_000, 200_000, 0, 300_000]
    fetch(store, web)
    assert content(store) == disk()
    ranges = [asked for _, asked in web.downloads()]
    assert ranges == [None, "bytes=100000-", "bytes=300000-", "bytes=300000-", "bytes=600000-"]


def test_a_server_without_ranges_is_asked_for_everything_again(store: ImageStore, web: Site) -> None:
    web.offer("ubuntu", disk())
    web.ranges = False
    web.cuts = [100_000]
    fetch(store, web)
    assert content(store) == disk()
    assert [asked for _, asked in web.downloads()] == [None, "bytes=100000-", None]


def test_a_file_that_changed_meanwhile_is_read_from_its_start(store: ImageStore, web: Site) -> None:
    web.offer("ubuntu", disk())
    web.cuts = [100_000]

    def change() -> bool:
        web.etag = '"second"' if web.downloads() else web.etag
        return False

    with ImageServer(web.url, clock=NO_PAUSE) as server:
        pull(store, server, "ubuntu", cancelled=change)
    assert [asked for _, asked in web.downloads()] == [None, "bytes=100000-", None]
    assert content(store) == disk()


@pytest.mark.parametrize("ranges", [True, False])
def test_a_server_that_never_gets_further_is_given_up(store: ImageStore, web: Site, ranges: bool) -> None:
    web.offer("ubuntu", disk())
    web.ranges = ranges
    web.cuts = [100_000]
    web.cut_always = 0 if ranges else 100_000
    with pytest.raises(ImageServerUnreachable, match="again and again"):
        fetch(store, web)
    assert len(web.downloads()) <= 8
    assert store.images() == []


def test_silence_counts_as_a_broken_connection(store: ImageStore, web: Site) -> None:
    web.offer("ubuntu", disk())
    web.hold_after = 50_000
    assert fetch(store, web, read=1.0).fetched
    assert [asked for _, asked in web.downloads()] == [None, "bytes=50000-"]


def test_a_body_without_length_that_ends_early_is_never_published(store: ImageStore, web: Site) -> None:
    web.offer("ubuntu", disk())
    web.with_length = False
    web.cuts = [100_000]
    with pytest.raises(ImageCorrupt):
        fetch(store, web)
    assert store.images() == []
    assert fetch(store, web).fetched


def test_a_wrong_hash_names_both(store: ImageStore, web: Site) -> None:
    web.offer("ubuntu", disk(1))
    web.files[f"/images/{COMMIT}/ubuntu.qcow2.zst"] = compressed(disk(2))
    with pytest.raises(ImageCorrupt) as caught:
        fetch(store, web)
    assert sha256(disk(1)) in (caught.value.details or "")
    assert sha256(disk(2)) in (caught.value.details or "")
    assert staged(store) == []


def test_more_bytes_than_announced_are_refused_early(store: ImageStore, web: Site) -> None:
    small = {"ubuntu.qcow2": disk(size=1 << 20)}
    web.offer_bundle(bundle("ubuntu", small), {"ubuntu.qcow2": bytes(1 << 30)})
    written: list[int] = []
    with ImageServer(web.url) as server, pytest.raises(ImageCorrupt, match="more than it announced"):
        pull(store, server, "ubuntu", progress=lambda done, _total: written.append(done))
    assert max(written, default=0) <= 1 << 20


def test_what_is_not_zstd_is_refused(store: ImageStore, web: Site) -> None:
    web.offer("ubuntu", disk())
    web.files[f"/images/{COMMIT}/ubuntu.qcow2.zst"] = disk()
    with pytest.raises(ImageCorrupt, match="decompressed"):
        fetch(store, web)


def test_half_an_artifact_does_not_stay(store: ImageStore, web: Site) -> None:
    web.offer("ubuntu", disk())
    web.files[f"/images/{COMMIT}/ubuntu.qcow2.zst"] = compressed(disk())[: 1 << 20] + b"rubbish" * 1000
    with pytest.raises(ImageCorrupt):
        fetch(store, web)
    assert staged(store) == []


def test_an_image_that_is_not_accepted_is_not_fetched(store: ImageStore, web: Site) -> None:
    artifacts = {"ubuntu.qcow2": disk(), "ubuntu.kernel": b"kernel" * 1000}
    web.offer_bundle(bundle("ubuntu", artifacts), artifacts)

    def refuse(manifest: Manifest) -> None:
        raise UsageError(f"not {manifest.name}")

    with ImageServer(web.url) as server, pytest.raises(UsageError, match="not ubuntu"):
        pull(store, server, "ubuntu", accept=refuse)
    assert web.downloads() == []


def test_several_frames_are_one_file(store: ImageStore, web: Site) -> None:
    web.offer("ubuntu", disk())
    halves = disk()[: 1 << 20], disk()[1 << 20 :]
    web.files[f"/images/{COMMIT}/ubuntu.qcow2.zst"] = b"".join(compressed(half) for half in halves)
    fetch(store, web)
    assert content(store) == disk()


def test_a_cancelled_pull_stops_between_chunks_and_leaves_no_image(store: ImageStore, web: Site) -> None:
    web.offer("ubuntu", disk())
    with ImageServer(web.url) as server, pytest.raises(PullCancelled) as caught:
        pull(store, server, "ubuntu", cancelled=lambda: bool(web.downloads()))
    assert caught.value.exit_code == ExitCode.INTERRUPTED
    assert store.images() == []
    assert fetch(store, web).fetched


def test_a_missing_image_and_a_missing_server_differ(store: ImageStore, web: Site) -> None:
    web.offer("ubuntu", disk())
    with pytest.raises(ImageMissing):
        fetch(store, web, "debian")
    with ImageServer("http://127.0.0.1:1") as server, pytest.raises(ImageServerUnreachable):
        pull(store, server, "ubuntu")


def test_a_listing_of_anything_else_is_no_commit(web: Site) -> None:
    web.files["/latest"] = b"<html>hello</html>"
    with ImageServer(web.url) as server, pytest.raises(InfrastructureError, match="makes no sense"):
        server.latest()
    web.files["/latest"] = b"a" * 100_000
    with ImageServer(web.url) as server, pytest.raises(InfrastructureError, match="makes no sense"):
        server.latest()


def test_redirects_are_followed_to_http_only(web: Site, tmp_path: Path) -> None:
    web.files["/other"] = COMMIT.encode()
    web.redirects["/latest"] = f"{web.url}/other"
    (tmp_path / "commit").write_text(COMMIT)
    with ImageServer(web.url) as server:
        assert server.latest() == COMMIT
        no_address = (f"http://{'x' * 70}.example/", "http://[::1/", "http://host:port/")
        for target in (f"file://{tmp_path}/commit", "ftp://127.0.0.1:1/", "/latest", *no_address):
            web.redirects["/latest"] = target
            with pytest.raises(ImageServerUnreachable):
                server.latest()


@pytest.mark.parametrize("url", ["ftp://host", "host:80", "file:///etc/passwd", "http://", "http://host/?query"])
def test_only_http_servers_are_asked(url: str) -> None:
    with pytest.raises(UsageError):
        ImageServer(url)


def test_complete_artifacts_of_an_interrupted_pull_are_kept(store: ImageStore, web: Site) -> None:
    artifacts = {"ubuntu.kernel": b"kernel" * 1000, "ubuntu.qcow2": disk()}
    web.offer_bundle(bundle("ubuntu", artifacts), artifacts)
    web.cuts = [1 << 20, 100_000]
    web.cut_always = 0
    with pytest.raises(ImageServerUnreachable):
        fetch(store, web)
    web.requests.clear()
    web.cut_always = None
    assert fetch(store, web).fetched
    assert web.downloads() == [(f"/images/{COMMIT}/ubuntu.qcow2.zst", "bytes=100000-")]


def test_staging_of_an_older_commit_and_tampered_staging_are_not_used(store: ImageStore, web: Site) -> None:
    web.offer("ubuntu", disk())
    stale = store.directory / ".staging" / "ubuntu"
    for commit in (COMMIT, OTHER):
        (stale / commit).mkdir(parents=True)
        (stale / commit / "ubuntu.qcow2").write_bytes(b"QFI\xfb wrong")
        (stale / commit / "ubuntu.qcow2").chmod(0o444)
        (stale / commit / "stranger").write_bytes(b"?")
    fetch(store, web)
    assert content(store) == disk()
    assert sorted(path.name for path in store.path(COMMIT, "ubuntu").iterdir()) == [
        "lease",
        "manifest.json",
        "ubuntu.qcow2",
        "verified.json",
    ]
    assert list(stale.glob("*/")) == []


def _pull_in_a_process(directory: Path, url: str, answer: Connection) -> None:
    with ImageServer(url) as server:
        answer.send(pull(ImageStore(directory), server, "ubuntu").fetched)


def test_two_processes_share_one_download(store: ImageStore, web: Site) -> None:
    web.offer("ubuntu", disk())
    web.hold_after = 1000
    pipes = [SPAWN.Pipe(duplex=False) for _ in range(2)]
    processes = [
        SPAWN.Process(target=_pull_in_a_process, args=(store.directory, web.url, theirs)) for _, theirs in pipes
    ]
    for process in processes:
        process.start()
    for _ in processes:
        assert web.latest_asked.acquire(timeout=WAIT_SECONDS)
    assert web.held.wait(WAIT_SECONDS)
    web.release.set()
    answers = []
    for (ours, theirs), process in zip(pipes, processes, strict=True):
        theirs.close()
        answers.append(ours.recv())
        process.join(WAIT_SECONDS)
        ours.close()
    assert sorted(answers) == [False, True]
    assert len(web.downloads()) == 1


def _pull_command(directory: Path, url: str) -> None:
    places = ["--images-cache-dir", str(directory), "--state-dir", str(directory.with_name("state"))]
    arguments = ["pull", "ubuntu", "--images-server", url, *places]
    try:
        images.main(arguments, standalone_mode=False)
    except GhvmError as error:
        sys.exit(error.exit_code)


def test_an_interrupted_command_ends_at_once_and_cleanly(store: ImageStore, web: Site) -> None:
    web.offer("ubuntu", disk())
    web.hold_after = 1 << 20
    process = SPAWN.Process(target=_pull_command, args=(store.directory, web.url))
    process.start()
    assert web.held.wait(WAIT_SECONDS)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    process.join(WAIT_SECONDS)
    assert process.exitcode == ExitCode.INTERRUPTED
    assert store.images() == []
    assert fetch(store, web).fetched
