"""The surroundings of the tests that boot full guests."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ghrunner_vm.images.server import serve
from tests.e2e import debian
from tests.lab import Lab

_COMPRESS_SECONDS = 120.0


@pytest.fixture(scope="session")
def debian_server(kept: Path) -> Iterator[str]:
    """The address of a server that offers the full guests as plain disks."""
    with serve(debian.build(kept), cache_dir=kept / "compressed") as service:
        service.wait_ready(_COMPRESS_SECONDS)
        yield service.url


@pytest.fixture(scope="session")
def debian_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image cache for them: each is pulled once, by the first test that runs it."""
    return tmp_path_factory.mktemp("debian")


@pytest.fixture
def debian_lab(lab: Lab, debian_server: str, debian_cache: Path) -> Lab:
    """A lab whose images are the full guests."""
    return replace(lab, images_url=debian_server, cache=debian_cache)
