"""Waiting for a file lock, with a deadline and a way out."""

import contextlib
import errno
from collections.abc import Callable, Iterator
from pathlib import Path

from ghrunner_vm import files
from ghrunner_vm.clock import SYSTEM, Clock
from ghrunner_vm.errors import InfrastructureError
from ghrunner_vm.images.errors import unsafe

POLL_SECONDS = 0.1


def nothing() -> None:
    """The check of somebody who never cancels."""


@contextlib.contextmanager
def lock_within(
    path: Path, seconds: float, *, shared: bool = False, check: Callable[[], None] = nothing, clock: Clock = SYSTEM
) -> Iterator[int]:
    """Hold the lock `path`; yields its descriptor. `check` is called while waiting and may raise.

    Raises InfrastructureError when the lock was not free within `seconds`, and UnsafeCache when it is a link.
    """
    deadline = clock.monotonic() + seconds
    with contextlib.ExitStack() as stack:
        while True:
            check()
            try:
                descriptor = stack.enter_context(files.lock(path, shared=shared, wait=False))
                break
            except files.Locked:
                if clock.monotonic() >= deadline:
                    raise _too_long(path, seconds) from None
                clock.sleep(POLL_SECONDS)
            except OSError as error:
                if error.errno == errno.ELOOP:
                    raise unsafe(path, "a symbolic link") from error
                raise
        yield descriptor


def _too_long(path: Path, seconds: float) -> InfrastructureError:
    return InfrastructureError(
        f"Another process holds a lock for more than {seconds:.0f} s",
        details=str(path),
        resolution="See who holds it with `fuser`, and end that process if it hangs.",
    )
