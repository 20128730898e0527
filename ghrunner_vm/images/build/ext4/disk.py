"""A disk that is written front to back: contents as they come, and in the end what leads to them."""

import os
from collections.abc import Iterator
from typing import Protocol

from ghrunner_vm.errors import UsageError
from ghrunner_vm.images.build.ext4.layout import BLOCK, Layout
from ghrunner_vm.images.build.tree import Content, Extent
from ghrunner_vm.units import format_size

_PIECE = 16 * BLOCK
_ZEROS = bytes(_PIECE)
_MAX_EXTENT = 32_768
_MAX_FILE_BLOCKS = 1 << 32


class Source(Protocol):
    """What bytes come from: fewer than asked for only at the end."""

    def read(self, size: int, /) -> bytes: ...


class Disk:
    """A disk of `size` bytes in an open, empty file."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor = descriptor
        self.size = size
        self.layout = Layout(size)
        self._groups = iter(self.layout.groups)
        self._free = range(0)
        os.ftruncate(descriptor, size)

    def store(self, source: Source) -> Content:
        """Write all that comes; zeros are left out. Raises UsageError when the disk is full."""
        extents: list[Extent] = []
        size = 0
        while piece := source.read(_PIECE):
            if piece != _ZEROS[: len(piece)]:
                self._append(extents, size // BLOCK, piece)
            size += len(piece)
            if size > _MAX_FILE_BLOCKS * BLOCK:
                raise UsageError("A file of the image is larger than ext4 can keep")
        return Content(size, tuple(extents))

    def read(self, content: Content) -> Iterator[bytes]:
        """What was stored, in pieces."""
        at = 0
        for extent in content.extents:
            yield from _zeros(extent.logical * BLOCK - at)
            at = extent.logical * BLOCK
            end = min(content.size, (extent.logical + extent.count) * BLOCK)
            while at < end:
                where = (extent.start - extent.logical) * BLOCK + at
                piece = os.pread(self._descriptor, min(_PIECE, end - at), where)
                yield piece
                at += len(piece)
        yield from _zeros(content.size - at)

    def store_block(self, data: bytes) -> int:
        """Write one block somewhere and give its number. Raises UsageError when the disk is full."""
        block = self._take(1).start
        self.write(block * BLOCK, data)
        return block

    def write(self, offset: int, data: bytes) -> None:
        """Put bytes at their place."""
        left = memoryview(data)
        while left:
            written = os.pwrite(self._descriptor, left, offset)
            offset, left = offset + written, left[written:]

    def _append(self, extents: list[Extent], logical: int, piece: bytes) -> None:
        at = 0
        while at < len(piece):
            blocks = self._take(-(-(len(piece) - at) // BLOCK))
            end = at + len(blocks) * BLOCK
            self.write(blocks.start * BLOCK, piece[at:end])
            _join(extents, Extent(logical + at // BLOCK, blocks.start, len(blocks)))
            at = end

    def _take(self, wanted: int) -> range:
        """Up to so many blocks that nobody has yet, one after the other."""
        while not self._free:
            group = next(self._groups, None)
            if group is None:
                raise UsageError(
                    f"The image does not fit into {format_size(self.size)}",
                    resolution="Make the disk larger with --size, or the image smaller.",
                )
            self._free = range(group.data, group.end)
        taken, self._free = self._free[:wanted], self._free[wanted:]
        return taken


def _join(extents: list[Extent], new: Extent) -> None:
    """Add an extent, or make the last one longer."""
    if extents:
        last = extents[-1]
        follows = last.logical + last.count == new.logical and last.start + last.count == new.start
        if follows and last.count + new.count <= _MAX_EXTENT:
            extents[-1] = Extent(last.logical, last.start, last.count + new.count)
            return
    extents.append(new)


def _zeros(count: int) -> Iterator[bytes]:
    while count > 0:
        yield _ZEROS[:count]
        count -= _PIECE
