"""Pulls, prunes and runs that share one cache, all at once, in real processes."""

import multiprocessing
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ghrunner_vm.errors import InfrastructureError
from ghrunner_vm.images.errors import ImageMissing
from ghrunner_vm.images.prune import Rules, may_go, remove
from ghrunner_vm.images.pull import pull
from ghrunner_vm.images.remote import ImageServer
from ghrunner_vm.images.store import ImageStore
from tests.integration.images_site import Site, disk, site

SPAWN = multiprocessing.get_context("spawn")
COMMITS = tuple(letter * 40 for letter in "abc")
SIZE = 1 << 20
ROUNDS = 25
SECONDS = 100.0


@pytest.fixture
def web() -> Iterator[Site]:
    with site() as mine:
        for number, commit in enumerate(COMMITS):
            mine.offer("ubuntu", disk(number, SIZE), commit=commit)
        yield mine


def pulls_and_uses(directory: Path, url: str, first: int) -> None:
    """What `ghvm run` does: pull, lease, and read the disk as long as the machine lives."""
    store, used = ImageStore(directory), 0
    with ImageServer(url) as server:
        for turn in range(ROUNDS):
            number = (first + turn) % len(COMMITS)
            pull(store, server, "ubuntu", commit=COMMITS[number])
            try:
                with store.lease(COMMITS[number], "ubuntu") as image:
                    if os.pread(image.disk_fd, SIZE, 0) != disk(number, SIZE):
                        sys.exit("the disk has other content")
                    used += 1
            except ImageMissing:
                continue  # pruned between the pull and the lease: a run says so, and its service tries again
    if used == 0:
        sys.exit("not one lease was had")


def prunes(directory: Path) -> None:
    store = ImageStore(directory)
    for _ in range(ROUNDS * 4):
        list(remove(store, may_go(store.images(), Rules(everything=True))))


def test_nobody_is_in_anybodys_way(tmp_path: Path, web: Site) -> None:
    directory = tmp_path / "cache"
    ImageStore(directory)
    work = [(pulls_and_uses, (directory, web.url, first)) for first in (0, 1)] + [(prunes, (directory,))] * 2
    processes = [SPAWN.Process(target=target, args=arguments) for target, arguments in work]
    for process in processes:
        process.start()
    for process in processes:
        process.join(SECONDS)
        process.kill()
    assert [process.exitcode for process in processes] == [0] * len(processes)
    store = ImageStore(directory)
    list(remove(store, may_go(store.images(), Rules(everything=True))))
    left = [path for path in directory.rglob("*") if path.is_file() and path.stat().st_size > 0]
    assert left == [], "nothing but locks is left"


def test_a_prune_that_was_killed_leaves_nothing_for_long(tmp_path: Path, web: Site) -> None:
    """It dies between the rename and the deletion: the next prune finishes it."""
    store = ImageStore(tmp_path / "cache")
    with ImageServer(web.url) as server:
        pull(store, server, "ubuntu", commit=COMMITS[0])
    killed = SPAWN.Process(target=dies_in_the_middle, args=(store.directory,))
    killed.start()
    killed.join(SECONDS)
    assert killed.exitcode == -9
    assert list((store.directory / ".trash").rglob("ubuntu.qcow2"))
    assert store.images() == []
    list(remove(store, []))
    assert not list((store.directory / ".trash").rglob("*"))
    with pytest.raises(InfrastructureError), store.lease(COMMITS[0], "ubuntu"):
        pass


def dies_in_the_middle(directory: Path) -> None:
    store = ImageStore(directory)

    def die(event: str, _arguments: tuple[object, ...]) -> None:
        if event == "shutil.rmtree":
            os.kill(os.getpid(), 9)

    sys.addaudithook(die)
    store.remove(COMMITS[0], "ubuntu")
