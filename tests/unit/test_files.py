"""Files that two processes share."""

import contextlib
import fcntl
import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from ghrunner_vm.files import Locked, downgrade, lock, open_plain, read_own, shared_lock, write_atomically

SPAWN = multiprocessing.get_context("spawn")
DEADLINE = 30


def hold(path: Path, held: Event, release: Event, shared: bool) -> None:
    with lock(path, shared=shared):
        held.set()
        release.wait(DEADLINE)


@contextmanager
def other_process_holds(path: Path, *, shared: bool = False) -> Iterator[Event]:
    held, release = SPAWN.Event(), SPAWN.Event()
    process = SPAWN.Process(target=hold, args=(path, held, release, shared))
    process.start()
    try:
        assert held.wait(DEADLINE)
        yield release
    finally:
        release.set()
        process.join(DEADLINE)
        process.kill()
        process.close()


def test_an_exclusive_lock_keeps_another_process_out(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with other_process_holds(path):
        for shared in (False, True):
            with pytest.raises(Locked), lock(path, shared=shared, wait=False):
                pass
    with lock(path, wait=False):
        pass


def test_shared_locks_live_together(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with other_process_holds(path, shared=True):
        with lock(path, shared=True, wait=False):
            pass
        with pytest.raises(Locked), lock(path, wait=False):
            pass


def test_waiting_ends_when_the_holder_lets_go(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with other_process_holds(path) as release:
        release.set()
        with lock(path):
            pass


def test_a_lock_whose_file_was_deleted_is_not_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with other_process_holds(path):
        path.unlink()
        with lock(path, wait=False) as descriptor:
            assert descriptor >= 0
            assert path.exists()


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"), lock(tmp_path / "lock"):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_write_atomically_replaces_content_and_mode(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o644)
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.mkdir()
    with pytest.raises(OSError, match="directory"):
        write_atomically(path, b"new")
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_is_replaced_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"kept")
    (tmp_path / "link").symlink_to(target)
    write_atomically(tmp_path / "link", b"new")
    assert target.read_bytes() == b"kept"
    assert (tmp_path / "link").read_bytes() == b"new"


def test_a_child_can_neither_release_our_lock_nor_write_to_its_file(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with lock(path) as ours:
        downgrade(ours)
        with shared_lock(ours) as theirs:
            fcntl.flock(theirs, fcntl.LOCK_UN)
            with pytest.raises(Locked), lock(path, wait=False):
                pass
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.write(theirs, b"x")


def test_the_lock_is_held_as_long_as_the_child_lives(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with contextlib.ExitStack() as child:
        with lock(path) as ours:
            downgrade(ours)
            child.enter_context(shared_lock(ours))
        with pytest.raises(Locked), lock(path, wait=False):
            pass
    with lock(path, wait=False):
        pass


def test_only_a_plain_file_is_opened(tmp_path: Path) -> None:
    plain, link, pipe = tmp_path / "plain", tmp_path / "link", tmp_path / "pipe"
    plain.write_bytes(b"content")
    link.symlink_to(plain)
    os.mkfifo(pipe)
    descriptor = open_plain(plain)
    assert descriptor is not None
    with os.fdopen(descriptor, "rb") as file:
        assert file.read() == b"content"
    assert [open_plain(path) for path in (link, pipe, tmp_path, tmp_path / "none")] == [None] * 4


def test_only_what_is_ours_and_small_enough_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    assert (read_own(path, 7), read_own(path, 6), read_own(tmp_path / "none", 7)) == (b"content", None, None)
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)  # only root could give the file away
    assert read_own(path, 7) is None
