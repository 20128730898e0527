"""A control group for one VMM, where systemd manages them: it limits memory, threads and the share of processors."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from ghrunner_vm import process
from ghrunner_vm.vm.limits import Limits

_PROGRAM = "systemd-run"


def available(root: Path = Path("/")) -> bool:
    """Whether a systemd that would make one for us manages the control groups, of version 2. `root` is for tests."""
    managed = (root / "run/systemd/system").is_dir() and (root / "sys/fs/cgroup/cgroup.controllers").exists()
    return managed and _answering() and shutil.which(_PROGRAM, path=process.environment()["PATH"]) is not None


def _answering() -> bool:
    # Root asks the system's manager; a user has one of their own only in a session (logind), which is where its bus is.
    if os.geteuid() == 0:
        return True
    directory = os.environ.get("XDG_RUNTIME_DIR")
    return directory is not None and (Path(directory) / "bus").exists()


def in_scope(argv: Sequence[str], name: str, limits: Limits, *, user: bool) -> list[str]:
    """`argv` in a scope unit `ghvm-vm-NAME`, of a user's manager if `user`.

    systemd-run becomes the program once its manager has moved it, so process id and parent stay, and the end of the
    parent ends it as before. The unit goes with its last process, also if that failed.
    """
    # A scope of root's stays in the slice of ghvm's service, with whatever limits that has; a user's session is in no
    # slice of their manager's.
    manager = "--user" if user else "--slice-inherit"
    properties = (
        f"MemoryMax={limits.memory}",
        "MemorySwapMax=0",
        f"TasksMax={limits.threads}",
        "CPUWeight=100",
    )
    given = [word for wanted in properties for word in ("-p", wanted)]
    unit = f"--unit=ghvm-vm-{name}"
    return [_PROGRAM, "--scope", "--quiet", "--collect", manager, unit, *given, "--", *argv]
