"""Where namespaces are forbidden: Landlock, by which a process gives up most files for good (landlock(7))."""

# pathlib takes longer to load than all that is done here.
# ruff: noqa: PTH116, PTH208

import ctypes
import errno
import os
import stat
from collections.abc import Iterable

from ghrunner_vm.vm.cell import kernel

_SYS_CREATE, _SYS_ADD_RULE, _SYS_RESTRICT = 444, 445, 446
_VERSION = 1
_PATH_BENEATH = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE, _DEVICE = 1, 1 << 1, 1 << 2, 1 << 3, 1 << 14, 1 << 15
_FILE_RIGHTS = ((1, (1 << 13) - 1), (2, 1 << 13), (3, _TRUNCATE), (5, _DEVICE))
"""The first ABI that knows them, and the rights: what is not handled here stays allowed."""
_BIND_AND_CONNECT_TCP = 3
_ABSTRACT_SOCKETS, _SIGNALS = 1, 2
_NETWORK_ABI, _SCOPE_ABI = 4, 6


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def version() -> int:
    """The ABI of this kernel. Raises OSError if it has no Landlock, or does not use it."""
    return kernel.syscall(_SYS_CREATE, None, 0, _VERSION)


def restrict(places: Iterable[str], devices: Iterable[str], *, own_network: bool) -> None:
    """Give up all files but `places` (to read), `devices`, and those that are already open; raises OSError.

    What a kernel can do besides is done: no TCP (ABI 4), no abstract sockets and no signals to others (ABI 6).
    """
    abi = version()
    files = sum(rights for first, rights in _FILE_RIGHTS if first <= abi)
    size = 24 if abi >= _SCOPE_ABI else 16 if abi >= _NETWORK_ABI else 8
    network, scoped = (_BIND_AND_CONNECT_TCP, _ABSTRACT_SOCKETS | _SIGNALS) if own_network else (0, _SIGNALS)
    rules = kernel.syscall(_SYS_CREATE, _Ruleset(files, network, scoped), size, 0)
    for place in places:
        _allow(rules, place, _EXECUTE | _READ_FILE | _READ_DIR)
    for device in devices:
        _allow(rules, device, (_READ_FILE | _WRITE_FILE | _DEVICE) & files)
    _allow_open_files(rules)
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    kernel.syscall(_SYS_RESTRICT, rules, 0)
    os.close(rules)


def _allow(rules: int, path: str, rights: int) -> None:
    try:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(os.fstat(opened).st_mode):
        rights &= ~_READ_DIR
    _add(rules, opened, rights)
    os.close(opened)


def _add(rules: int, opened: int, rights: int) -> None:
    kernel.syscall(_SYS_ADD_RULE, rules, _PATH_BENEATH, _Beneath(rights, opened), 0)


def _allow_open_files(rules: int) -> None:
    """/proc/self/fd/N opens a file anew, which takes a right of its own."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if stat.S_ISREG(os.stat(f"/proc/self/fd/{name}").st_mode):
                _add(rules, int(name), _READ_FILE)
        except FileNotFoundError:  # the list itself, which was open to be read
            continue
        except OSError as error:
            if error.errno != errno.EBADFD:  # a file in memory: it needs no rule
                raise
