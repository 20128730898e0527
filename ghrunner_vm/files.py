"""Files that two processes share: locked, staged and renamed."""

import contextlib
import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path


class Locked(Exception):
    """Another process holds the lock."""


def open_lock(path: Path) -> int:
    """An open descriptor of a lock file, made if missing; links are not followed. Not inherited by children.

    On a read-only file system it is open for reading, which is enough for `flock`.
    """
    flags = os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | flags, 0o600)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        return os.open(path, os.O_RDONLY | flags)


@contextlib.contextmanager
def shared_lock(held: int) -> Iterator[int]:
    """A read-only descriptor with a shared `flock` of its own on the file of `held`, for a child that is not trusted.

    A child that inherited `held` itself could release our lock with LOCK_UN, and write to the file. Raises Locked
    while `held` is locked exclusively: see `downgrade`.
    """
    descriptor = os.open(f"/proc/self/fd/{held}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB, "lock")
        yield descriptor
    finally:
        os.close(descriptor)


def downgrade(descriptor: int) -> None:
    """Turn an exclusive lock into a shared one; others still cannot take it exclusively.

    The kernel gives the lock up for an instant. Raises Locked if somebody took it then.
    """
    _flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB, "lock")


@contextlib.contextmanager
def lock(path: Path, *, shared: bool = False, wait: bool = True) -> Iterator[int]:
    """Hold `flock` on `path`; yields the descriptor, which a child may inherit to hold the lock as well.

    Raises Locked if it is held elsewhere and `wait` is false. A lock file that its holder deleted while we waited
    is not the lock any more, so the name is checked again after each wait.
    """
    operation = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    while True:
        descriptor = open_lock(path)
        try:
            _flock(descriptor, operation, str(path))
            if _same_file(descriptor, path):
                yield descriptor
                return
        finally:
            os.close(descriptor)


def open_plain(path: Path) -> int | None:
    """A descriptor to read a plain file by; None for anything else, and for nothing. Links are not followed."""
    try:
        # Without O_NONBLOCK a named pipe would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    return None


def read_own(path: Path, limit: int) -> bytes | None:
    """The content of a plain file of ours; None for anything else, another user's, and what exceeds `limit` bytes."""
    descriptor = open_plain(path)
    if descriptor is None:
        return None
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        return file.read(limit) if found.st_uid == os.geteuid() and found.st_size <= limit else None


def write_atomically(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Replace `path` as one step, with this mode whatever the umask.

    A crash leaves the old content, or a stray `.NAME.XXXX` beside it.
    """
    staged = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        staged.replace(path)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


@contextlib.contextmanager
def in_memory(content: bytes) -> Iterator[Path]:
    """A file with this content that takes no room on any disk, for this user's programs while the block lasts."""
    descriptor = os.memfd_create("ghvm")
    try:
        os.write(descriptor, content)
        yield Path(f"/proc/{os.getpid()}/fd/{descriptor}")
    finally:
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Make renames and new names in a directory survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flock(descriptor: int, operation: int, name: str) -> None:
    try:
        fcntl.flock(descriptor, operation)
    except BlockingIOError as error:
        raise Locked(name) from error


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        named = path.lstat()
    except FileNotFoundError:
        return False
    held = os.fstat(descriptor)
    return (held.st_dev, held.st_ino) == (named.st_dev, named.st_ino)
