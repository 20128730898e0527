"""What is costly to make is made once for each content, and kept in a directory that may be absent."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from ghrunner_vm.files import lock


def once(cache: Path, kind: str, fingerprint: str, make: Callable[[Path], Path]) -> Path:
    """What `make` gives back, a file or a directory in the empty directory that it is called with.

    Safe to call from several processes at once: the second waits for the first.
    """
    cache.mkdir(parents=True, exist_ok=True)
    target = cache / f"{kind}-{fingerprint}"
    with lock(cache / f"{kind}.lock"):
        if not target.exists():
            with tempfile.TemporaryDirectory(dir=cache, prefix=f".{kind}-") as work:
                make(Path(work)).rename(target)
    return target
