"""Namespaces of our own, and a root directory with no more than a VMM needs."""

# pathlib takes longer to load than all that is done here.
# ruff: noqa: PTH103, PTH110, PTH112, PTH114, PTH115, PTH120, PTH123, PTH211

import os
from collections.abc import Iterable

from ghrunner_vm.vm.cell import kernel

# Where a distribution has programs, libraries and firmware. Where /lib is a link, it is one here as well.
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc/ld.so.cache", "/etc/alternatives")

_APART = kernel.CLONE_NEWNS | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
_STAGE = "/tmp"  # noqa: S108 only a place to mount upon, seen by us alone, that every system has
_PROCESS = "/proc/self"


def enter(places: Iterable[str], devices: Iterable[str], *, own_network: bool) -> None:
    """Leave all of this host but `places` (read-only), `devices` and our own entry in /proc; raises OSError.

    An ordinary user does it in a user namespace that knows no other user, so not even root.
    """
    # A service's umask would close what is made here to QEMU's own user.
    os.umask(0o022)
    apart = _APART | (kernel.CLONE_NEWNET if own_network else 0)
    if os.geteuid() == 0:
        kernel.unshare(apart)
    else:
        _unshare_as_ourselves(apart)
    kernel.keep_mounts_to_ourselves()
    _furnish([*SYSTEM, *places], devices)
    kernel.make_root(_STAGE)
    kernel.restrict("/", kernel.READ_ONLY | kernel.NO_SUID | kernel.NO_DEVICES | kernel.NO_PROGRAMS)


def _unshare_as_ourselves(apart: int) -> None:
    uid, gid = os.geteuid(), os.getegid()
    kernel.unshare(kernel.CLONE_NEWUSER | apart)
    # The kernel lets an ordinary user map a group only after this (user_namespaces(7)).
    for file, line in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"{_PROCESS}/{file}", "w", encoding="ascii") as opened:
            opened.write(line)


def _furnish(places: Iterable[str], devices: Iterable[str]) -> None:
    # All is cloned before anything is hidden by what is mounted upon it.
    sealed = kernel.READ_ONLY | kernel.NO_SUID | kernel.NO_DEVICES
    there = {place: _picture(place, sealed) for place in places if os.path.exists(place)}
    there |= {device: kernel.clone(device, kernel.NO_SUID | kernel.NO_PROGRAMS) for device in devices}
    # Only ourselves: QEMU names its descriptors by /proc/self/fd. A whole /proc can be had only by those who have a
    # PID namespace, and a VMM in one would not be our own child.
    there[f"/proc/{os.getpid()}"] = kernel.clone(_PROCESS, sealed | kernel.NO_PROGRAMS)
    there[_PROCESS] = str(os.getpid())
    kernel.mount_tmpfs(_STAGE, "mode=755,size=1m")
    for place, what in there.items():
        _put(what, _STAGE + place)


def _picture(place: str, attributes: int) -> int | str:
    """What stands for a place: the target of a top directory's link, else a clone of what the place leads to."""
    if os.path.islink(place) and place in SYSTEM:
        return os.readlink(place)
    return kernel.clone(place, attributes)


def _put(what: int | str, target: str) -> None:
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if isinstance(what, str):
        os.symlink(what, target)
        return
    if os.path.isdir(f"/proc/self/fd/{what}"):
        os.makedirs(target, exist_ok=True)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_CLOEXEC, 0o400))
    kernel.attach(what, target)
    os.close(what)
