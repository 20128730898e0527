"""Put the images of a directory where hosts fetch them from, as the image server's protocol has it.

`latest` is written last, when all that it leads to is there: nobody ever sees half of it, whenever this ends. What
has the same commit has the same content, so a publish that is made again sends only what is missing.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ghrunner_vm.clock import SYSTEM, Clock
from ghrunner_vm.errors import GhvmError, UsageError
from ghrunner_vm.images.catalog import Catalog, Snapshot
from ghrunner_vm.images.compress import CompressedCache
from ghrunner_vm.images.target import Source, Target

QUIET_SECONDS = 60.0
"""How long to wait for files that are still being written."""
_POLL_SECONDS = 0.5

Progress = Callable[[int, int | None], None]
"""Hears the bytes that are there, and the total."""


@dataclass(frozen=True)
class Published:
    """What hosts find now. `sent` are bytes; what was there already does not count."""

    commit: str
    images: tuple[str, ...]
    sent: int


def snapshot(directory: Path, cache: CompressedCache, *, only: str | None = None, clock: Clock = SYSTEM) -> Snapshot:
    """What is to be published: all images of a directory, or only one. Compresses what is new.

    Raises UsageError if there is none, and GhvmError if any of them could not be used: hosts would miss it.
    """
    faults: list[str] = []
    catalog = Catalog(directory.resolve(), cache, warn=faults.append, clock=clock, only=only)
    deadline = clock.monotonic() + QUIET_SECONDS
    while (found := catalog.refresh()) is None or catalog.busy:
        if clock.monotonic() >= deadline:
            raise GhvmError(f"The images in {directory} are still being written", resolution="Try again when they are.")
        clock.sleep(_POLL_SECONDS)
    if faults:
        resolution = "Mend or remove it, or publish single images with --name."
        raise GhvmError(
            f"Not all of {directory} can be published, so nothing is", details="\n".join(faults), resolution=resolution
        )
    if not found.images:
        what = "no image" if only is None else f"no image {only}"
        raise UsageError(f"there is {what} in {directory}", resolution="An image is NAME.json with its files.")
    return found


def publish(found: Snapshot, target: Target, progress: Progress = lambda _done, _total: None) -> Published:
    """Put it there. Raises what the target does."""
    objects = dict(_objects(found))
    total = sum(source.size for source in objects.values())
    done = sent = 0

    def came(count: int) -> None:
        progress(done + count, total)

    with target.held():
        for path, source in objects.items():
            if not target.has(path, source):
                target.put(path, source, came)
                sent += source.size
            came(source.size)
            done += source.size
        target.put("latest", Source(found.commit.encode()), lambda _count: None)
    return Published(found.commit, found.images, sent)


def _objects(found: Snapshot) -> Iterator[tuple[str, Source]]:
    """By their paths: what is large first, and a manifest when its artifacts are there."""
    home = f"images/{found.commit}"
    for file, path in found.compressed.items():
        yield f"{home}/{file}", Source(path)
    for file, text in found.texts.items():
        yield f"{home}/{file}", Source(text)
