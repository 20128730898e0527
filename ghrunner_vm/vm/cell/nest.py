"""Where a jailer makes its jail: mounts of its own, and the first process of a PID namespace that ends with the run.

Its words are `parent=PID`, `at=DIRECTORY`, `jail=DIRECTORY` below it, `read=FD:NAME` and `write=FD:NAME` for the files
in the jail, `network=own` and limits such as `NOFILE=4096`; what follows `--` is what it runs.

All of the jail is in memory that only this mount namespace sees: with its last process it is gone, however that ends.
"""

# pathlib takes longer to load than all that is done here.
# ruff: noqa: PTH103

import os

from ghrunner_vm.vm.cell import kernel
from ghrunner_vm.vm.cell.main import become_behind

_APART = kernel.CLONE_NEWNS | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
_SEALED = kernel.NO_SUID | kernel.NO_DEVICES | kernel.NO_PROGRAMS
_ROOM = "mode=755,size=64m,nr_inodes=1000"
"""For the two programs and what a VMM might write."""
# The jailer changes the user, which clears a death signal; the first process of the namespace keeps it. Its end is the
# end of all in the namespace. It waits for the jailer, so it must not become it.
_FIRST = ("unshare", "--pid", "--fork", "--kill-child", "--", "sh", "-c", '"$@"; exit "$?"', "sh")


def main() -> None:
    """Run what follows `--` in sys.argv."""
    become_behind(_make, _FIRST)


def _make(words: list[list[str]]) -> None:
    (at,), (jail,) = ([value for name, value in words if name == wanted] for wanted in ("at", "jail"))
    rights = {"read": _SEALED | kernel.READ_ONLY, "write": _SEALED}
    clones: dict[str, int] = {}
    for kind, value in words:
        if kind in rights:
            descriptor, name = value.split(":", 1)
            clones[name] = kernel.clone_open(int(descriptor), rights[kind])
    kernel.unshare(_APART | (kernel.CLONE_NEWNET if ["network", "own"] in words else 0))
    kernel.keep_mounts_to_ourselves()
    os.umask(0o022)
    kernel.mount_tmpfs(at, _ROOM)
    os.makedirs(jail)
    for name, tree in clones.items():
        os.close(os.open(f"{jail}/{name}", os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400))
        kernel.attach(tree, f"{jail}/{name}")
        os.close(tree)
