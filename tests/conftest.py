"""What the tests that boot machines share: tiny images, an image server, a warm cache and a simulated GitHub."""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from ghrunner_vm.images.pull import pull
from ghrunner_vm.images.remote import ImageServer
from ghrunner_vm.images.server import ImageService, serve
from ghrunner_vm.images.store import ImageStore
from ghrunner_vm.simulator.server import Simulator
from tests import guests
from tests.lab import Lab

# Taken away, since ghvm refuses GHVM_ variables that it does not know.
_CACHE = Path(os.environ.pop("GHVM_TEST_CACHE", "") or Path(__file__).parents[1] / ".cache")
_READY_SECONDS = 60.0


@pytest.fixture(scope="session")
def kept() -> Path:
    """Where what is costly to make is kept from one run of the tests to the next."""
    return _CACHE


@pytest.fixture(scope="session")
def images(kept: Path) -> Path:
    """The directory of all tiny test images."""
    return guests.build(kept)


@pytest.fixture(scope="session")
def image_service(images: Path, kept: Path) -> Iterator[ImageService]:
    """An image server that offers them."""
    with serve(images, cache_dir=kept / "compressed") as service:
        service.wait_ready(_READY_SECONDS)
        yield service


@pytest.fixture(scope="session")
def warm_cache(image_service: ImageService, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image cache that has the tiny image."""
    directory = tmp_path_factory.mktemp("cache")
    with ImageServer(image_service.url) as server:
        pull(ImageStore(directory), server, guests.TINY)
    return directory


@pytest.fixture(scope="session")
def simulator() -> Iterator[Simulator]:
    """One GitHub for all tests; each has labels of its own."""
    with Simulator() as simulator:
        yield simulator


@pytest.fixture
def lab(tmp_path: Path, simulator: Simulator, image_service: ImageService, warm_cache: Path) -> Iterator[Lab]:
    """The surroundings of a test, which must leave nothing in them."""
    (tmp_path / "tmp").mkdir()
    key = tmp_path / "key.pem"
    key.touch(mode=0o600)
    key.write_text(simulator.private_key_pem, encoding="utf-8")
    lab = Lab(tmp_path, f"t{secrets.token_hex(4)}", simulator, image_service.url, warm_cache)
    yield lab
    simulator.faults.clear()
    left = lab.leftovers()
    lab.end_machines()
    assert left == []
