"""The files of an image with their contents: what is read from a tar, and what ghvm adds."""

import io
import stat
from dataclasses import dataclass

from ghrunner_vm.errors import UsageError
from ghrunner_vm.images.build.ext4.disk import Disk, Source
from ghrunner_vm.images.build.tree import Node, Tree, directory, symlink
from ghrunner_vm.units import format_size

_MAX_TEXT = 4 << 20
_MAX_READ = 512 << 20


@dataclass(frozen=True)
class Owner:
    """A user and a group by their numbers."""

    uid: int = 0
    gid: int = 0


_ROOT = Owner()


@dataclass(frozen=True)
class Files:
    """A tree whose contents are on a disk. `time` is given to whatever is added."""

    tree: Tree
    disk: Disk
    time: int

    def put(self, path: str, content: bytes, mode: int = 0o644, owner: Owner = _ROOT) -> None:
        """Add a file, in place of what was there; what is missing of its path is made."""
        self.store(path, io.BytesIO(content), mode, owner)

    def store(self, path: str, source: Source, mode: int = 0o644, owner: Owner = _ROOT) -> None:
        """As `put`, of any length."""
        content = self.disk.store(source)
        self.tree.add(path.encode(), Node(stat.S_IFREG | mode, owner.uid, owner.gid, mtime=self.time, content=content))

    def link(self, path: str, target: str) -> None:
        """Add a symbolic link, in place of what was there."""
        self.tree.add(path.encode(), symlink(target, mtime=self.time))

    def directory(self, path: str, mode: int = 0o755) -> None:
        """Add a directory unless it is there."""
        if self.tree.find(path) is None:
            self.tree.add(path.encode(), directory(mode, mtime=self.time))

    def give(self, path: str, owner: Owner) -> None:
        """Add a directory of this owner's, in place of what was there; what is in a directory stays, and its mode."""
        old = self.tree.find(path, follow=False)
        mode = stat.S_IMODE(old.mode) if old is not None and old.is_directory else 0o755
        made = directory(mode, mtime=self.time)
        made.uid, made.gid = owner.uid, owner.gid
        self.tree.add(path.encode(), made)

    def has(self, path: str) -> bool:
        """Whether there is something, links followed."""
        return self.tree.find(path) is not None

    def read(self, path: str) -> bytes | None:
        """The content of a file, links followed; None if there is no file there. Raises UsageError for a huge one."""
        node = self.tree.find(path)
        if node is None or not node.is_file:
            return None
        if node.content.size > _MAX_READ:
            raise UsageError(f"/{path} of the image is too large: {format_size(node.content.size)}")
        return b"".join(self.disk.read(node.content))

    def text(self, path: str) -> str:
        """The content of a file, in which other bytes than text stay what they are; empty if there is none.

        Raises UsageError for one that is too large.
        """
        node = self.tree.find(path)
        if node is not None and node.content.size > _MAX_TEXT:
            raise UsageError(f"/{path} of the image has {format_size(node.content.size)}: that is too large")
        return (self.read(path) or b"").decode("utf-8", "surrogateescape")

    def names(self, path: str) -> list[str]:
        """The names in a directory, links followed, sorted; those that are no text are left out."""
        node = self.tree.find(path)
        found = [] if node is None else [name.decode("utf-8", "surrogateescape") for name in node.children]
        return sorted(name for name in found if name.isprintable())
