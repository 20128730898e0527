"""Noticing a newer image on a real server: what counts as newer, and what a bad publish does."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ghrunner_vm.errors import InfrastructureError, PermanentError
from ghrunner_vm.images.errors import ImageCorrupt, ImageMissing, ImageServerUnreachable, PullCancelled
from ghrunner_vm.images.manifest import Manifest
from ghrunner_vm.images.pull import pull
from ghrunner_vm.images.remote import ImageServer
from ghrunner_vm.images.store import ImageStore, LeasedImage
from ghrunner_vm.images.watch import newer
from tests.integration.images_site import COMMIT, Site, bundle, compressed, disk, site

NEW = "f" * 40


@pytest.fixture
def web() -> Iterator[Site]:
    with site() as mine:
        mine.offer("ubuntu", disk(1))
        yield mine


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "cache")


@pytest.fixture
def server(web: Site) -> Iterator[ImageServer]:
    with ImageServer(web.url) as server:
        yield server


@pytest.fixture
def running(server: ImageServer, store: ImageStore) -> Iterator[LeasedImage]:
    pull(store, server, "ubuntu")
    with store.lease(COMMIT, "ubuntu") as image:
        yield image


def commits(store: ImageStore) -> list[str]:
    return [image.commit for image in store.images()]


def test_the_same_commit_costs_one_request(
    web: Site, server: ImageServer, store: ImageStore, running: LeasedImage
) -> None:
    web.requests.clear()
    assert newer(server, store, running) is None
    assert web.requests == [("/latest", None)]


def test_a_commit_that_changes_other_images_only_is_not_newer(
    web: Site, server: ImageServer, store: ImageStore, running: LeasedImage
) -> None:
    web.offer("ubuntu", disk(1), commit=NEW)
    web.offer("debian", disk(2), commit=NEW)
    web.requests.clear()
    assert newer(server, store, running) is None
    assert web.downloads() == []


def test_a_changed_image_is_in_the_cache_and_verified_when_it_is_told(
    web: Site, server: ImageServer, store: ImageStore, running: LeasedImage
) -> None:
    web.offer("ubuntu", disk(2), commit=NEW)
    assert newer(server, store, running) == NEW
    assert commits(store) == [NEW, COMMIT]
    web.requests.clear()
    assert newer(server, store, running) == NEW
    assert web.downloads() == []


def test_a_bundle_that_only_boots_in_another_way_is_newer(web: Site, server: ImageServer, store: ImageStore) -> None:
    artifacts = {"ubuntu.qcow2": disk(), "ubuntu.kernel": b"kernel"}
    manifest = bundle("ubuntu", artifacts)
    web.offer_bundle(manifest, artifacts)
    pull(store, server, "ubuntu")
    boot = manifest.boot.model_copy(update={"cmdline": "quiet"})
    web.offer_bundle(manifest.model_copy(update={"boot": boot}), artifacts, commit=NEW)
    with store.lease(COMMIT, "ubuntu") as image:
        assert newer(server, store, image) == NEW


def test_what_somebody_else_pulled_is_verified_too(
    web: Site, server: ImageServer, store: ImageStore, running: LeasedImage
) -> None:
    web.offer("ubuntu", disk(2), commit=NEW)
    pull(store, server, "ubuntu")
    other = store.path(NEW, "ubuntu") / "ubuntu.qcow2"
    other.chmod(0o644)
    other.write_bytes(disk(3))
    with pytest.raises(ImageCorrupt):
        newer(server, store, running)


def test_a_bad_publish_raises_and_changes_nothing(
    web: Site, server: ImageServer, store: ImageStore, running: LeasedImage
) -> None:
    web.offer("ubuntu", disk(2), commit=NEW)
    good = dict(web.files)
    for error, path, content in (
        (InfrastructureError, "/latest", b"<html>"),
        (ImageMissing, f"/images/{NEW}/ubuntu.qcow2.zst", None),
        (ImageMissing, f"/images/{NEW}/ubuntu.qcow2.sha256", None),
        (ImageCorrupt, f"/images/{NEW}/ubuntu.qcow2.zst", compressed(disk(3))),
        (ImageCorrupt, f"/images/{NEW}/ubuntu.qcow2.zst", b"rubbish"),
        (InfrastructureError, f"/images/{NEW}/ubuntu.json", b"{}"),
    ):
        web.files = {name: value for name, value in {**good, path: content}.items() if value is not None}
        with pytest.raises(error):
            newer(server, store, running)
        assert commits(store) == [COMMIT]


def test_a_server_that_is_away_is_told(store: ImageStore, running: LeasedImage) -> None:
    with ImageServer("http://127.0.0.1:1") as away, pytest.raises(ImageServerUnreachable):
        newer(away, store, running)


def test_an_image_that_is_not_accepted_or_cancelled_is_not_fetched(
    web: Site, server: ImageServer, store: ImageStore, running: LeasedImage
) -> None:
    web.offer("ubuntu", disk(2), commit=NEW)
    web.requests.clear()

    def refuse(manifest: Manifest) -> None:
        raise PermanentError(f"not {manifest.name}")

    with pytest.raises(PermanentError):
        newer(server, store, running, accept=refuse)
    with pytest.raises(PullCancelled):
        newer(server, store, running, cancelled=lambda: True)
    assert web.downloads() == []
