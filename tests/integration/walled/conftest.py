"""Fixtures for tests of the network: a host in a small world of namespaces, with its GitHub and its image server."""

import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from ghrunner_vm.images.server import ImageService, serve
from ghrunner_vm.simulator.server import Simulator
from tests.lab import GHVM, Lab
from tests.world import World, world

_READY_SECONDS = 60.0


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    Path("/var/lib/ghvm").mkdir(exist_ok=True)
    with world(tmp_path_factory.mktemp("host")) as made:
        yield made


@pytest.fixture(scope="module")
def github(here: World) -> Iterator[Simulator]:
    """The simulated GitHub on the loopback of the host."""
    simulator = here.in_host(Simulator)
    entered = here.in_host(simulator.__enter__)
    with contextlib.ExitStack() as stack:
        stack.push(simulator)
        yield entered


@pytest.fixture(scope="module")
def server(here: World, images: Path, kept: Path) -> Iterator[ImageService]:
    """The image server there."""
    serving = serve(images, cache_dir=kept / "compressed")
    service = here.in_host(serving.__enter__)
    with contextlib.ExitStack() as stack:
        stack.push(serving)
        service.wait_ready(_READY_SECONDS)
        yield service


@pytest.fixture
def lab(tmp_path: Path, here: World, github: Simulator, server: ImageService, warm_cache: Path) -> Iterator[Lab]:
    """A host whose guests may reach the internet, and GitHub on its loopback."""
    (tmp_path / "tmp").mkdir()
    key = tmp_path / "key.pem"
    key.touch(mode=0o600)
    key.write_text(github.private_key_pem, encoding="utf-8")
    reach = ("--egress-allow", f"127.0.0.1:{github.port}", "--resolvers", "127.0.0.1")
    program = (*here.on_host, *GHVM)
    lab = Lab(tmp_path, f"t{secrets.token_hex(4)}", github, server.url, warm_cache, program, reach)
    yield lab
    left = [*lab.leftovers(), *here.ours()]
    lab.end_machines()
    assert left == []
