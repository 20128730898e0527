"""The disk that ghvm writes, read by e2fsprogs."""

import contextlib
import io
import stat
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghrunner_vm.errors import UsageError
from ghrunner_vm.images.build.ext4.disk import Disk
from ghrunner_vm.images.build.ext4.finish import finish
from ghrunner_vm.images.build.ext4.layout import BLOCK, Label
from ghrunner_vm.images.build.tree import Node, Tree, directory, symlink
from tests import disks

MIB = 1 << 20
TIME = 1_700_000_000
LABEL = Label(b"a label".ljust(16, b"\0"), bytes(range(16)), TIME)


class Made:
    """A disk in a file, and a tree for it."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self._file = path.open("w+b")
        self.disk = Disk(self._file.fileno(), size)
        self.tree = Tree(TIME)

    def file(self, path: bytes, content: bytes = b"", mode: int = 0o644, **more: object) -> Node:
        node = Node(stat.S_IFREG | mode, content=self.disk.store(io.BytesIO(content)), **more)  # type: ignore[arg-type]
        self.tree.add(path, node)
        return node

    def finish(self) -> Path:
        finish(self.disk, self.tree, LABEL)
        self._file.close()
        disks.check(self.path)
        return self.path

    def close(self) -> None:
        self._file.close()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[[int], Made]]:
    made: list[Made] = []

    def one(size: int = 64 * MIB) -> Made:
        made.append(Made(tmp_path / f"disk{len(made)}", size))
        return made[-1]

    yield one
    for disk in made:
        disk.close()


Make = Callable[..., Made]


@pytest.mark.parametrize("size", [16 * MIB, 128 * MIB, 129 * MIB, 1024 * MIB, 8192 * MIB, (8192 << 10) * 1000 + 12345])
def test_an_empty_disk_of_any_size(make: Make, size: int) -> None:
    made = make(size)
    assert made.finish().stat().st_size == size
    assert made.path.stat().st_blocks * 512 < 2 * MIB, "what is not used takes no room"


def test_attributes(make: Make) -> None:
    made = make()
    made.file(b"usr/bin/su", b"x", 0o4755, uid=0, gid=70_000, mtime=TIME)
    made.file(b"home/later", b"", 0o600, uid=100_001, gid=5, mtime=5_000_000_000)
    made.tree.add(b"scratch", directory(0o1777, mtime=TIME))
    disk = made.finish()
    su, later = disks.stat(disk, "/usr/bin/su"), disks.stat(disk, "/home/later")
    assert (su["Mode"], su["User"], su["Group"], su["Size"], su["Links"]) == ("04755", "0", "70000", "1", "1")
    assert (later["Mode"], later["User"], later["Group"]) == ("0600", "100001", "5")
    assert "2128" in disks.ask(disk, "stat /home/later")
    assert disks.stat(disk, "/scratch")["Mode"] == "01777"
    assert "a label" in disks.ask(disk, "stats")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"one",
        b"x" * BLOCK,
        b"x" * (BLOCK + 1),
        bytes(10 * MIB),
        bytes(3 * MIB) + b"end",
        b"begin" + bytes(3 * MIB),
        b"".join(b"x" * 65536 + bytes(65536) for _ in range(100)),
    ],
    ids=["empty", "short", "a block", "a block and a byte", "zeros", "hole first", "hole last", "many holes"],
)
def test_contents(make: Make, tmp_path: Path, content: bytes) -> None:
    made = make()
    node = made.file(b"it", content)
    assert b"".join(made.disk.read(node.content)) == content
    disk = made.finish()
    assert disks.content(disk, "/it", tmp_path / "scratch") == content


def test_a_file_in_more_pieces_than_one_node_has_room_for(make: Make, tmp_path: Path) -> None:
    """A thousand of them need a block between the inode and the extents."""
    content = b"".join(struct.pack("<I", number) * 16384 + bytes(65536) for number in range(1, 1001))
    made = make(192 * MIB)
    made.file(b"it", content)
    assert disks.content(made.finish(), "/it", tmp_path / "scratch") == content


def test_a_file_over_the_ends_of_groups(make: Make, tmp_path: Path) -> None:
    made = make(400 * MIB)
    content = bytes(range(1, 251)) * 1_200_000
    made.file(b"large", content)
    assert disks.content(made.finish(), "/large", tmp_path / "scratch") == content


def test_links(make: Make) -> None:
    made = make()
    node = made.file(b"a/first", b"once")
    made.tree.add(b"b/second", node)
    for length in (1, 59, 60, 200, 4000):
        made.tree.add(b"to%d" % length, symlink("x" * length, mtime=TIME))
    disk = made.finish()
    assert disks.stat(disk, "/a/first")["Inode"] == disks.stat(disk, "/b/second")["Inode"]
    assert disks.stat(disk, "/b/second")["Links"] == "2"
    assert f'"{"x" * 59}"' in disks.ask(disk, "stat /to59")
    assert disks.stat(disk, "/to60")["Size"] == "60"


def test_devices(make: Make) -> None:
    made = make()
    made.tree.add(b"null", Node(stat.S_IFCHR | 0o666, device=(1, 3)))
    made.tree.add(b"disk", Node(stat.S_IFBLK | 0o600, device=(259, 70_000)))
    made.tree.add(b"pipe", Node(stat.S_IFIFO | 0o600))
    disk = made.finish()
    assert "Device major/minor number: 01:03" in disks.ask(disk, "stat /null")
    assert "Device major/minor number: 259:70000" in disks.ask(disk, "stat /disk")
    assert disks.stat(disk, "/pipe")["Type"] == "FIFO"


def test_a_directory_of_many_blocks(make: Make) -> None:
    made = make()
    names = [b"%s%d" % (b"n" * (number % 240), number) for number in range(3000)]
    for name in names:
        made.file(b"d/" + name)
    disk = made.finish()
    listed = disks.ask(disk, "ls -p /d").splitlines()
    assert {line.split("/")[5].encode() for line in listed if line.count("/") >= 6} == {*names, b".", b".."}


ACL = [(1, 6, 0xFFFFFFFF), (2, 4, 1000), (4, 4, 0xFFFFFFFF), (16, 6, 0xFFFFFFFF), (32, 0, 0xFFFFFFFF)]


def test_extended_attributes(make: Make) -> None:
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<2HI", *entry) for entry in ACL)
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    made = make()
    made.file(b"ping", xattrs={b"security.capability": capability})
    made.file(b"many", xattrs={b"user.large": b"v" * 2000, b"user.empty": b"", b"trusted.a": b"1"})
    made.file(b"acl", xattrs={b"system.posix_acl_access": acl})
    made.file(b"other", xattrs={b"unheard.of": b"x"})
    disk = made.finish()
    assert capability.hex(" ") in disks.ask(disk, "ea_get -x /ping security.capability")
    assert disks.ask(disk, "ea_get /many user.large").count("v") >= 2000
    assert {"user.large", "user.empty", "trusted.a"} <= set(disks.ask(disk, "ea_list /many").replace("(", " ").split())
    nameless = acl.hex(" ").replace("ff ff ff ff", "00 00 00 00")  # as debugfs shows who has no id
    assert nameless in disks.ask(disk, "ea_get -x /acl system.posix_acl_access")
    assert "unheard" not in disks.ask(disk, "ea_list /other")


def test_more_extended_attributes_than_there_is_room_for(make: Make) -> None:
    made = make()
    made.file(b"it", xattrs={b"user.a": bytes(4096)})
    with pytest.raises(UsageError, match="extended attributes"):
        finish(made.disk, made.tree, LABEL)


def test_an_extended_attribute_with_too_long_a_name(make: Make) -> None:
    made = make()
    made.file(b"it", xattrs={b"user." + b"n" * 256: b""})
    with pytest.raises(UsageError, match="name that is too long"):
        made.finish()


@pytest.mark.parametrize("names", [65_000, 65_001])
def test_a_file_of_many_names(make: Make, names: int) -> None:
    made = make(256 * MIB)
    node = made.file(b"0")
    made.tree.root.children.update((str(one).encode(), node) for one in range(1, names))
    if names > 65_000:
        with pytest.raises(UsageError, match="more than 65000 names"):
            made.finish()
    else:
        assert disks.stat(made.finish(), "/0")["Links"] == "65000"


def test_a_disk_that_is_too_small(make: Make) -> None:
    made = make(16 * MIB)
    with pytest.raises(UsageError, match=r"does not fit into 16\.0 MiB"):
        made.file(b"it", b"x" * (15 * MIB))


def test_more_files_than_inodes(make: Make) -> None:
    made = make(16 * MIB)
    for number in range(8192):
        made.tree.add(b"%d" % number, Node(stat.S_IFREG))
    with pytest.raises(UsageError, match="more files"):
        finish(made.disk, made.tree, LABEL)


def test_what_was_replaced_is_free_again(make: Make) -> None:
    made = make()
    made.file(b"it", b"x" * 8 * MIB)
    made.file(b"it", b"short")
    free = int(disks.ask(made.finish(), "stats").partition("Free blocks:")[2].split()[0])
    other = make()
    other.file(b"it", b"short")
    assert int(disks.ask(other.finish(), "stats").partition("Free blocks:")[2].split()[0]) == free


def test_the_same_files_are_the_same_bytes(make: Make) -> None:
    def disk() -> bytes:
        made = make()
        node = made.file(b"a", b"content", xattrs={b"user.b": b"1", b"user.a": b"2"})
        made.tree.add(b"b/c", node)
        return made.finish().read_bytes()

    assert disk() == disk()


NAMES = st.binary(min_size=1, max_size=255).filter(lambda name: not {0, ord("/")} & set(name))
PATHS = st.lists(NAMES.filter(lambda name: name not in (b".", b"..")), min_size=1, max_size=4).map(b"/".join)
XATTRS = st.dictionaries(NAMES.map(lambda name: b"user." + name[:40]), st.binary(max_size=300), max_size=4)
FILES = st.tuples(st.binary(max_size=20_000), st.integers(0, 0o7777), XATTRS)


@settings(max_examples=40)
@given(st.dictionaries(PATHS, FILES, max_size=12))
def test_any_tree_is_a_file_system(
    tmp_path_factory: pytest.TempPathFactory, files: dict[bytes, tuple[bytes, int, dict[bytes, bytes]]]
) -> None:
    made = Made(tmp_path_factory.mktemp("any") / "disk", 64 * MIB)
    try:
        for path, (content, mode, xattrs) in files.items():
            # A name of a file is that of a directory at times.
            with contextlib.suppress(UsageError):
                made.file(path, content, mode, xattrs=xattrs, mtime=TIME)
        made.finish()
    finally:
        made.close()
