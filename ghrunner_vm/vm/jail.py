"""Which user a VMM runs as, and how it is made to die with its parent."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ghrunner_vm.errors import InfrastructureError
from ghrunner_vm.files import Locked, downgrade, lock


@dataclass(frozen=True)
class Identity:
    """A user id (and group id of the same number) for one VMM; None keeps our own, when we are not root."""

    uid: int | None
    lock: int | None = None
    """The descriptor that holds the lease; the VMM takes a share in it, so that the id is free only after both."""


@contextlib.contextmanager
def lease_identity(directory: Path, base: int, count: int) -> Iterator[Identity]:
    """A user id that no other VMM on this host has, out of `count` ids from `base` on; ours if we are not root.

    Raises InfrastructureError when all are taken.
    """
    if os.geteuid() != 0:
        yield Identity(None)
        return
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    for uid in range(base, base + count):
        with contextlib.ExitStack() as stack:
            try:
                held = stack.enter_context(lock(directory / str(uid), wait=False))
                downgrade(held)
            except Locked:
                continue
            yield Identity(uid, held)
            return
    raise InfrastructureError(
        "No user id is free for the virtual machine",
        details=f"All {count} ids from {base} on are in use by other runs.",
        resolution="Raise vm-uid-count in the configuration.",
    )


def confined(argv: Sequence[str], identity: Identity, devices: Sequence[str] = ()) -> list[str]:
    """`argv` without privileges, ended by the kernel when the thread that starts it ends (setpriv(1), util-linux).

    `devices` are device files that the program may use through the group that owns them. setpriv sets the
    parent-death signal after it has changed the user, since that change would clear it.
    """
    prefix = ["setpriv", "--no-new-privs", "--pdeathsig", "KILL"]
    if identity.uid is not None:
        groups = sorted({os.stat(device).st_gid for device in devices if Path(device).exists()} - {0})  # noqa: PTH116
        listed = ["--groups", ",".join(map(str, groups))] if groups else ["--clear-groups"]
        user = ["--reuid", str(identity.uid), "--regid", str(identity.uid)]
        prefix += [*user, *listed, "--inh-caps=-all", "--bounding-set=-all"]
    return [*prefix, "--", *argv]
