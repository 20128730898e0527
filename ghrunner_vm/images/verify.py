"""Whether a file is what its manifest says: the full hash, or a record that it has not changed since the last one."""

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, Protocol, Self

from pydantic import Field

from ghrunner_vm import files
from ghrunner_vm.images.errors import unsafe
from ghrunner_vm.images.locking import nothing
from ghrunner_vm.images.manifest import Name, OwnFile, Sha256

RECORD = "verified.json"
_BLOCK = 1 << 20


class Hash(Protocol):
    """What hashlib's objects offer."""

    def update(self, data: bytes | memoryview, /) -> None: ...
    def hexdigest(self) -> str: ...


NewHash = Callable[[], Hash]


class Stamp(OwnFile):
    """What the kernel changes when a file is written, replaced, given away or opened to others."""

    owner: int
    mode: int
    inode: int
    device: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, descriptor: int) -> Self:
        """The stamp of an open file."""
        status = os.fstat(descriptor)
        return cls(
            owner=status.st_uid,
            mode=status.st_mode,
            inode=status.st_ino,
            device=status.st_dev,
            size=status.st_size,
            mtime_ns=status.st_mtime_ns,
            ctime_ns=status.st_ctime_ns,
        )


class Verified(OwnFile):
    """One file that had this hash when it had this stamp."""

    sha256: Sha256
    stamp: Stamp


class Record(OwnFile):
    """The file `verified.json`: what was verified, by artifact name."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    files: dict[Name, Verified] = Field(default_factory=dict)

    @classmethod
    def read(cls, directory: Path) -> Self:
        """The record of an image; an unreadable one counts as empty, since hashing again is always right.

        Raises UnsafeCache for one that others may have written.
        """
        try:
            return cls.model_validate_json(content(directory / RECORD))
        except (OSError, ValueError):
            return cls()

    def write(self, directory: Path) -> None:
        """Replace the record of an image."""
        files.write_atomically(directory / RECORD, self.to_json(), mode=0o444)


def verified(descriptor: int, new_hash: NewHash = hashlib.sha256, check: Callable[[], None] = nothing) -> Verified:
    """Read the whole open file once. `check` is called between blocks and may raise."""
    before = Stamp.of(descriptor)
    content = new_hash()
    offset = 0
    while block := os.pread(descriptor, _BLOCK, offset):
        check()
        content.update(block)
        offset += len(block)
    # The stamp from before: a change while we read then shows up as a stamp that does not fit.
    return Verified(sha256=content.hexdigest(), stamp=before)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    """A read-only descriptor of a regular file that nobody else may write; raises UnsafeCache otherwise."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise unsafe(path, "a symbolic link" if error.errno == errno.ELOOP else str(error.strerror)) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise unsafe(path, "not a regular file")
        check_owner(path, status)
        os.set_blocking(descriptor, True)
        yield descriptor
    finally:
        os.close(descriptor)


def content(path: Path) -> bytes:
    """The content of a file as `opened` opens it."""
    with opened(path) as descriptor, os.fdopen(os.dup(descriptor), "rb") as file:
        return file.read()


def check_directory(path: Path) -> None:
    """Refuse what is no real directory, or one that others may write; raises FileNotFoundError and UnsafeCache."""
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        raise unsafe(path, "a symbolic link")
    if not stat.S_ISDIR(status.st_mode):
        raise unsafe(path, "not a directory")
    check_owner(path, status)


def check_owner(path: Path, status: os.stat_result) -> None:
    """Refuse what another user owns or may write."""
    if status.st_uid != os.geteuid():
        raise unsafe(path, f"owned by user {status.st_uid}, not by us ({os.geteuid()})")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise unsafe(path, f"writable by others (mode {stat.S_IMODE(status.st_mode):04o})")
