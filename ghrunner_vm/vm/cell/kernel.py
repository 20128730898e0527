"""The system calls that Python 3.11 has no function for. All raise OSError, ENOSYS where the kernel is too old."""

import ctypes
import errno
import os

AT_FDCWD = -100
_AT_EMPTY_PATH, _AT_RECURSIVE = 0x1000, 0x8000
_OPEN_TREE_CLONE, _OPEN_TREE_CLOEXEC = 1, os.O_CLOEXEC
_MOVE_MOUNT_F_EMPTY_PATH = 4
_MNT_DETACH = 2
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000

READ_ONLY, NO_SUID, NO_DEVICES, NO_PROGRAMS = 1, 2, 4, 8
"""Attributes of mounts (mount_setattr(2))."""

PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 24, 38
_CAPABILITIES = 64

# From 424 on a system call has the same number on every architecture.
_SYS_OPEN_TREE, _SYS_MOVE_MOUNT, _SYS_MOUNT_SETATTR = 428, 429, 442

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _MountAttributes(ctypes.Structure):
    _fields_ = (
        ("set", ctypes.c_uint64),
        ("clear", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("user_namespace", ctypes.c_uint64),
    )


def syscall(number: int, *arguments: "int | bytes | ctypes.Structure | None") -> int:
    """Any system call: integers are passed as they are, bytes and structures by address, None as a null pointer."""
    return _checked(int(_libc.syscall(ctypes.c_long(number), *map(_passed, arguments))))


def _passed(argument: "int | bytes | ctypes.Structure | None") -> object:
    if isinstance(argument, int):
        return ctypes.c_long(argument)
    return ctypes.byref(argument) if isinstance(argument, ctypes.Structure) else ctypes.c_char_p(argument)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def prctl(option: int, value: int) -> None:
    """prctl(2) with one argument."""
    _checked(int(_libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0)))


def drop_capabilities() -> None:
    """No program that this process becomes has a capability."""
    for number in range(_CAPABILITIES):
        try:
            prctl(PR_CAPBSET_DROP, number)
        except OSError as error:
            if error.errno != errno.EINVAL:  # the kernel knows no more of them
                raise


def default_signal(number: int) -> None:
    """Ignored no more."""
    _libc.signal(number, None)


def become(command: list[str]) -> None:
    """The program of this name on the PATH takes our place. Unlike os.execvp it loads no module to find it."""
    words = (ctypes.c_char_p * (len(command) + 1))(*map(os.fsencode, command), None)
    _checked(int(_libc.execvp(words[0], words)))


def unshare(flags: int) -> None:
    """New namespaces for this process."""
    _checked(int(_libc.unshare(flags)))


def keep_mounts_to_ourselves() -> None:
    """Nothing that is mounted from now on is seen in another namespace, nor the other way round."""
    _checked(int(_libc.mount(b"none", b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None)))


def mount_tmpfs(target: str, options: str) -> None:
    """An empty file system in memory."""
    _checked(int(_libc.mount(b"tmpfs", os.fsencode(target), b"tmpfs", ctypes.c_ulong(0), options.encode())))


def clone(path: str, attributes: int) -> int:
    """A copy of the mounts at and below a path, which is nowhere yet; it has these attributes besides its own."""
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | _AT_RECURSIVE
    tree = syscall(_SYS_OPEN_TREE, AT_FDCWD, os.fsencode(path), flags)
    _set(tree, b"", _AT_EMPTY_PATH | _AT_RECURSIVE, attributes)
    return tree


def clone_open(descriptor: int, attributes: int) -> int:
    """As `clone`, of an open file alone. It must be done before our mounts are our own: see open_tree(2), EINVAL."""
    tree = syscall(_SYS_OPEN_TREE, descriptor, b"", _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | _AT_EMPTY_PATH)
    _set(tree, b"", _AT_EMPTY_PATH, attributes)
    return tree


def attach(tree: int, target: str) -> None:
    """Mount a clone."""
    syscall(_SYS_MOVE_MOUNT, tree, b"", AT_FDCWD, os.fsencode(target), _MOVE_MOUNT_F_EMPTY_PATH)


def restrict(target: str, attributes: int) -> None:
    """Give one mount these attributes besides its own."""
    _set(AT_FDCWD, os.fsencode(target), 0, attributes)


def _set(directory: int, path: bytes, flags: int, attributes: int) -> None:
    wanted = _MountAttributes(set=attributes)
    syscall(_SYS_MOUNT_SETATTR, directory, path, flags, wanted, ctypes.sizeof(wanted))


def make_root(directory: str) -> None:
    """A mounted directory becomes `/`, and the old root with all below it is gone for us (pivot_root(2), NOTES)."""
    os.chdir(directory)
    _checked(int(_libc.pivot_root(b".", b".")))
    _checked(int(_libc.umount2(b".", _MNT_DETACH)))
    os.chdir("/")
