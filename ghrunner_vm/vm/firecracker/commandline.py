"""The command line of Firecracker in its jailer, as a pure function."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

from ghrunner_vm.vm.base import TapNetwork, VmDescription

API = "run/firecracker.socket"
CONFIGURATION = "vm.json"
"""Files in the jail."""


@dataclass(frozen=True)
class Programs:
    """Paths of the two programs, which belong together."""

    firecracker: str
    jailer: str


def jail(programs: Programs, base: PurePath, name: str) -> PurePath:
    """Where the jailer makes the root of a machine's Firecracker (docs/jailer.md)."""
    return base / PurePath(programs.firecracker).name / name / "root"


def command_line(programs: Programs, vm: VmDescription, base: PurePath, uid: int) -> Sequence[str]:
    """The argv of the jailer. No cgroup is asked for: systemd has made one, where there is a systemd (vm/scope.py)."""
    netns = ("--netns", f"/proc/{vm.network.namespace}/ns/net") if isinstance(vm.network, TapNetwork) else ()
    return [
        programs.jailer,
        *("--id", vm.name, "--exec-file", programs.firecracker),
        *("--uid", str(uid), "--gid", str(uid)),
        *("--chroot-base-dir", str(base)),
        *netns,
        "--",
        *("--config-file", CONFIGURATION, "--api-sock", API),
    ]
