"""The files of an image while it is made: names and attributes in memory, contents on the disk that is being written.

Paths are bytes relative to the root, as in a tar; links are followed inside the tree and never lead out of it.
"""

import stat
from collections.abc import Iterator
from dataclasses import dataclass, field

from ghrunner_vm.errors import UsageError

_MAX_LINKS = 40
MAX_NAME_BYTES = 255
MAX_PATH_BYTES = 4095
"""As long as a path that Linux takes at once, without its end mark; also the target of a link."""


@dataclass(frozen=True)
class Extent:
    """`count` blocks of a file from its block `logical` on, which lie on the disk from block `start` on."""

    logical: int
    start: int
    count: int


@dataclass(frozen=True)
class Content:
    """Where the bytes of a file are. What no extent covers is zero."""

    size: int = 0
    extents: tuple[Extent, ...] = ()


@dataclass
class Node:
    """A file, directory, link or device. Two names of one node are hard links. `mode` has the type as well."""

    mode: int
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    children: dict[bytes, "Node"] = field(default_factory=dict)
    target: bytes = b""
    device: tuple[int, int] = (0, 0)
    content: Content = Content()

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_link(self) -> bool:
        return stat.S_ISLNK(self.mode)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.mode)


def directory(mode: int = 0o755, *, mtime: int = 0) -> Node:
    """An empty directory of root's."""
    return Node(stat.S_IFDIR | mode, mtime=mtime)


def symlink(target: str, *, mtime: int = 0) -> Node:
    """A symbolic link of root's."""
    return Node(stat.S_IFLNK | 0o777, target=target.encode(), mtime=mtime)


class Tree:
    """All files by their paths."""

    def __init__(self, mtime: int = 0) -> None:
        """`mtime` is given to directories that nobody described."""
        self._mtime = mtime
        self.root = directory(mtime=mtime)

    def add(self, path: bytes, node: Node) -> None:
        """Put a node there, in place of what was there; a directory keeps what is in it. Raises UsageError."""
        *parents, name = parts(path) or [b""]
        if not name:
            if not node.is_directory:
                raise UsageError("The root of the image is no directory")
            node.children = self.root.children
            self.root = node
            return
        where = self._made(parents)
        old = where.children.get(name)
        if old is not None and old.is_directory and node.is_directory:
            node.children = old.children
        where.children[name] = node

    def find(self, path: bytes | str, *, follow: bool = True) -> Node | None:
        """What lies there, or None. `follow`: also the last part, if it is a symbolic link."""
        wanted = parts(path.encode() if isinstance(path, str) else path)
        found = self._walk(wanted, follow=follow)
        return found[-1] if found else None

    def remove(self, path: bytes | str) -> None:
        """Take away what lies there, if there is something."""
        *parents, name = parts(path.encode() if isinstance(path, str) else path)
        found = self._walk(parents, follow=True)
        if found:
            found[-1].children.pop(name, None)

    def walk(self) -> Iterator[tuple[bytes, Node]]:
        """Each path and its node in one fixed order, directories before what is in them; the root is b""."""
        waiting: list[tuple[bytes, Node]] = [(b"", self.root)]
        while waiting:
            path, node = waiting.pop()
            yield path, node
            prefix = path + b"/" if path else b""
            waiting.extend((prefix + name, node.children[name]) for name in sorted(node.children, reverse=True))

    def _made(self, names: list[bytes]) -> Node:
        """The directory of this path; what is missing of it is made, as tar does."""
        depth = len(names)
        while not (found := self._walk(names[:depth], follow=True)):
            depth -= 1
        where = found[-1]
        if not where.is_directory:
            raise UsageError(f"{printable(b'/'.join(names[:depth]))} is a file, and there is something below it")
        for name in names[depth:]:
            where.children[name] = directory(mtime=self._mtime)
            where = where.children[name]
        return where

    def _walk(self, names: list[bytes], *, follow: bool) -> list[Node]:
        """The nodes from the root to this path, or nothing if it leads nowhere."""
        way, waiting, links = [self.root], list(reversed(names)), 0
        while waiting:
            name = waiting.pop()
            if name == b"..":
                way = way[:-1] or way
                continue
            node = way[-1].children.get(name)
            if node is None:
                return []
            if node.is_link and (waiting or follow):
                links += 1
                if links > _MAX_LINKS:
                    return []
                if node.target.startswith(b"/"):
                    way = way[:1]
                waiting.extend(reversed([part for part in node.target.split(b"/") if part not in (b"", b".")]))
                continue
            way.append(node)
        return way


def parts(path: bytes) -> list[bytes]:
    """The names of a path. Raises UsageError for one that climbs out, or that no file system can hold."""
    names = [name for name in path.split(b"/") if name not in (b"", b".")]
    if b".." in names:
        raise UsageError(f"A path climbs out of the image: {printable(path)}")
    if b"\0" in path or len(path) > MAX_PATH_BYTES or any(len(name) > MAX_NAME_BYTES for name in names):
        raise UsageError(f"A name in the image cannot be written: {printable(path)[:400]}")
    return names


def printable(path: bytes) -> str:
    """A path for a person, whatever bytes it has."""
    text = path.decode("utf-8", "backslashreplace")
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
