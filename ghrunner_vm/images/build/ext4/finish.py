"""The end of a disk: every node gets its inode, and the groups are described."""

import io
from collections import Counter

from ghrunner_vm.errors import UsageError
from ghrunner_vm.images.build.ext4 import inode, xattr
from ghrunner_vm.images.build.ext4.bitmap import Bitmap
from ghrunner_vm.images.build.ext4.disk import Disk
from ghrunner_vm.images.build.ext4.inode import Placed
from ghrunner_vm.images.build.ext4.layout import (
    BLOCK,
    FIRST_INODE,
    GROUP_BLOCKS,
    GROUP_INODES,
    ROOT_INODE,
    Group,
    Label,
    Used,
)
from ghrunner_vm.images.build.tree import Content, Node, Tree, directory

_LOST_AND_FOUND = b"lost+found"


def finish(disk: Disk, tree: Tree, label: Label) -> None:
    """Write the tree, whose contents were stored on this disk. Raises UsageError when it does not fit."""
    if _LOST_AND_FOUND not in tree.root.children:
        tree.root.children[_LOST_AND_FOUND] = directory(0o700, mtime=label.time)
    numbered = _Numbered(tree)
    if numbered.highest > disk.layout.inodes:
        raise UsageError("The image has more files than its disk has room for", resolution="Make --size larger.")
    blocks = _Blocks(disk, numbered)
    for number, node in numbered.inodes:
        disk.write(disk.layout.inode_offset(number), inode.pack(node, blocks.placed(number, node)))
    _describe(disk, numbered, blocks.used, label)


class _Numbered:
    """The tree with a number for each inode, in the order of its paths."""

    def __init__(self, tree: Tree) -> None:
        self._numbers = {id(tree.root): ROOT_INODE, id(tree.root.children[_LOST_AND_FOUND]): FIRST_INODE}
        self.inodes: list[tuple[int, Node]] = []
        self.parents = {ROOT_INODE: ROOT_INODE}
        self._names: Counter[int] = Counter()
        self.highest = FIRST_INODE
        for _, node in tree.walk():
            self._names[id(node)] += 1
            if self._names[id(node)] == 1:
                self.inodes.append((self._new(node), node))
        for number, node in self.inodes:
            self.parents.update((self.of(child), number) for child in node.children.values() if child.is_directory)

    def _new(self, node: Node) -> int:
        if id(node) not in self._numbers:
            self.highest += 1
            self._numbers[id(node)] = self.highest
        return self._numbers[id(node)]

    def of(self, node: Node) -> int:
        """The number of a node."""
        return self._numbers[id(node)]

    def links(self, node: Node) -> int:
        """How often it is named: a directory by itself and by those in it as well."""
        if not node.is_directory:
            if self._names[id(node)] > inode.MAX_LINKS:
                raise UsageError(f"A file of the image has more than {inode.MAX_LINKS} names")
            return self._names[id(node)]
        return 2 + sum(child.is_directory for child in node.children.values())


class _Blocks:
    """Stores what nodes have besides their contents, and notes what is in use."""

    def __init__(self, disk: Disk, numbered: _Numbered) -> None:
        self._disk = disk
        self._numbered = numbered
        self.used: list[range] = []

    def placed(self, number: int, node: Node) -> Placed:
        """Where everything of a node is."""
        before = len(self.used)
        inline, attributes = xattr.pack(node.xattrs)
        block = self._stored(attributes) if attributes else 0
        size, leads, has_extents = self._leads(number, node)
        blocks = sum(map(len, self.used[before:]))
        return Placed(self._numbered.links(node), size, blocks, leads, has_extents, block, inline)

    def _leads(self, number: int, node: Node) -> tuple[int, bytes, bool]:
        """The size of a node, the map to its content, and whether that is one of extents."""
        if node.is_link and len(node.target) <= inode.FAST_LINK_BYTES:
            return len(node.target), node.target.ljust(60, b"\0"), False
        if not (node.is_file or node.is_directory or node.is_link):
            return 0, inode.device(*node.device), False
        content = self._content(number, node)
        self.used.extend(range(extent.start, extent.start + extent.count) for extent in content.extents)
        return content.size, inode.extent_map(content.extents, self._stored), True

    def _content(self, number: int, node: Node) -> Content:
        if node.is_link:
            return self._disk.store(io.BytesIO(node.target))
        if node.is_directory:
            names = [(name, self._numbered.of(child), child.mode) for name, child in sorted(node.children.items())]
            listed = inode.directory_blocks(number, self._numbered.parents[number], names)
            return self._disk.store(io.BytesIO(listed))
        return node.content

    def _stored(self, data: bytes) -> int:
        block = self._disk.store_block(data)
        self.used.append(range(block, block + 1))
        return block


def _describe(disk: Disk, numbered: _Numbered, taken: list[range], label: Label) -> None:
    layout = disk.layout
    blocks = Bitmap(len(layout.groups), GROUP_BLOCKS)
    for used in (*(range(group.first, group.data) for group in layout.groups), *taken):
        blocks.mark(used)
    blocks.mark(range(layout.blocks, len(layout.groups) * GROUP_BLOCKS))  # what the last group lacks
    inodes = Bitmap(len(layout.groups), GROUP_INODES)
    inodes.mark(range(numbered.highest))
    directories = Counter(layout.group_of(number) for number, node in numbered.inodes if node.is_directory)
    described = [
        Used(blocks.free(one.number), inodes.free(one.number), directories[one.number]) for one in layout.groups
    ]
    for group in layout.groups:
        disk.write(group.block_bitmap * BLOCK, blocks.block(group.number))
        disk.write(group.inode_bitmap * BLOCK, inodes.block(group.number))
    for group in layout.copies():
        _copy(disk, group, described, label)


def _copy(disk: Disk, group: Group, described: list[Used], label: Label) -> None:
    superblock = disk.layout.superblock(group.number, described, label)
    disk.write(group.first * BLOCK + (1024 if group.number == 0 else 0), superblock)
    disk.write((group.first + 1) * BLOCK, disk.layout.descriptors(described))
