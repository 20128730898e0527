"""The compressed bytes of a download that has not come to its end, so that a later process goes on from there.

`.{artifact}.part` lies beside the artifact: one line of JSON says of which file these are the first bytes, then they
follow as they came. It is neither synced nor believed: a part that is stale or damaged costs time only, because the
hash of what is unpacked decides.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ghrunner_vm.images.errors import ImageServerUnreachable, PullCancelled
from ghrunner_vm.images.manifest import OwnFile
from ghrunner_vm.images.space import RESERVE, fits, require_space

_BLOCK = 64 << 10
_MAX_HEAD = 16 << 10
_SPACE_STEP = 64 << 20
_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Origin(OwnFile):
    """The file that is being downloaded: its address, its ETag or date, and its length in bytes if that is known."""

    url: str
    validator: str
    length: int | None


class Part:
    """What is kept of one download. It gives way when the disk becomes full: it is a convenience."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._unchecked = 0

    def reopen(self, url: str) -> Origin | None:
        """The origin of what was kept of this address, or None; `kept` then gives the bytes."""
        self.close()
        with contextlib.suppress(OSError, ValueError):
            self._file = _opened(self._path)
            origin = Origin.model_validate_json(self._file.readline(_MAX_HEAD))
            if origin.url == url:
                return origin
        self.discard()
        return None

    def kept(self) -> Iterator[bytes]:
        """The bytes after `reopen`; what is appended later follows them."""
        while self._file is not None and (block := self._file.read(_BLOCK)):
            yield block

    def begin(self, origin: Origin) -> None:
        """Keep what follows as the first bytes of this file; what was kept before is gone."""
        self.discard()
        with self._giving_way():
            self._file = _opened(self._path, os.O_CREAT | os.O_EXCL)
            self._file.write(origin.model_dump_json(by_alias=True).encode() + b"\n")

    def append(self, block: bytes) -> None:
        """Keep the bytes that came next."""
        if self._file is None:
            return
        with self._giving_way():
            self._file.write(block)
        self._unchecked += len(block)
        if self._unchecked >= _SPACE_STEP:
            self._unchecked = 0
            if not fits(self._path.parent, RESERVE):
                self.discard()

    def make_room(self, needed: int) -> None:
        """See that `needed` bytes fit beside the part, or else without it. Raises DiskFull."""
        if not fits(self._path.parent, needed):
            self.discard()
            require_space(self._path.parent, needed)

    def discard(self) -> None:
        """Keep nothing."""
        self.close()
        self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Keep what there is."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # the last bytes did not fit on the disk
                self._file.close()
            self._file = None

    @contextlib.contextmanager
    def _giving_way(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            self.discard()


@contextlib.contextmanager
def part_of(artifact: Path) -> Iterator[Part]:
    """What is kept of this artifact's download: at the end nothing, unless trying again may be all that it takes."""
    part = Part(part_path(artifact))
    try:
        yield part
    except (ImageServerUnreachable, PullCancelled, KeyboardInterrupt):
        part.close()
        raise
    except BaseException:
        part.discard()
        raise
    part.discard()


def part_path(artifact: Path) -> Path:
    """Where an artifact's part lies. No artifact has a name that begins with a dot."""
    return artifact.with_name(f".{artifact.name}.part")


def _opened(path: Path, flags: int = 0) -> BinaryIO:
    return os.fdopen(os.open(path, _FLAGS | flags, 0o600), "r+b")
