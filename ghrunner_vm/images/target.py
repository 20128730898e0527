"""Where images are published: a directory that any web server serves, or a server that takes PUT."""

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

Came = Callable[[int], None]
"""Hears how many bytes of the present object are there."""


@dataclass(frozen=True)
class Source:
    """The content of an object: bytes, or a file that does not change."""

    content: bytes | Path

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size

    def open(self) -> BinaryIO:
        """A new reader from the start."""
        return io.BytesIO(self.content) if isinstance(self.content, bytes) else self.content.open("rb")


class Target(Protocol):
    """A place for objects, by paths such as `images/COMMIT/NAME.json`."""

    def held(self) -> contextlib.AbstractContextManager[None]:
        """Keep others of this host from publishing here, if that is possible. Raises InfrastructureError."""
        ...

    def has(self, path: str, source: Source) -> bool:
        """Whether the object is there for certain; False if that cannot be told cheaply."""
        ...

    def put(self, path: str, source: Source, came: Came) -> None:
        """Make or replace the object, as one step where that is possible. Raises GhvmError and OSError."""
        ...
