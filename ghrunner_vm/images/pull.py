"""Bring an image from a server into the cache: download, decompress, hash and write in one pass."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ghrunner_vm.images.download import Download, StartAgain
from ghrunner_vm.images.errors import ImageCorrupt, PullCancelled, UnsafeCache, mismatch
from ghrunner_vm.images.manifest import MAX_ARTIFACT_BYTES, Artifact, Manifest
from ghrunner_vm.images.part import Part, part_of, part_path
from ghrunner_vm.images.remote import ImageServer
from ghrunner_vm.images.space import fits, require_space
from ghrunner_vm.images.store import ImageStore
from ghrunner_vm.images.unpack import Expected, is_complete, unpack
from ghrunner_vm.images.verify import Record, Verified, opened, verified

Progress = Callable[[int, int | None], None]
"""Hears the uncompressed bytes that are done, and the total if it is known."""


@dataclass(frozen=True)
class PulledImage:
    """An image that is in the cache now. `bytes` were written; 0 and not `fetched` if it was there already."""

    commit: str
    name: str
    fetched: bool
    bytes: int


def pull(
    store: ImageStore,
    server: ImageServer,
    name: str,
    *,
    commit: str | None = None,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] = lambda: False,
    accept: Callable[[Manifest], object] = lambda _manifest: None,
) -> PulledImage:
    """Make sure that the cache has this image; the server's latest commit unless one is given.

    A process that pulls the same image is waited for. `cancelled` is asked between chunks. `accept` may
    raise on seeing the manifest, before anything large is fetched. Raises PullCancelled, ImageMissing, ImageCorrupt,
    ImageUntrusted, ImageServerUnreachable, DiskFull and CacheNotWritable. Whenever it ends, even by SIGKILL, only the
    staging directory is left, from which the next pull of this commit goes on and which others clear.
    """

    def check() -> None:
        if cancelled():
            raise PullCancelled("The pull was cancelled", details=f"image {name}")

    commit = commit or server.latest()
    present = PulledImage(commit, name, fetched=False, bytes=0)
    if store.has(commit, name):
        return present
    with store.staging(commit, name, check) as staging:
        if store.has(commit, name):
            return present
        transfer = _Transfer(store, server, commit, staging, progress or (lambda _done, _total: None), check)
        announced = server.announced(commit, name)
        store.trust.check(announced.manifest, announced.signed)
        accept(announced.manifest)
        manifest, record = transfer.run(announced.manifest)
        store.publish(staging, manifest, record, commit, announced.signed)
    return PulledImage(commit, name, fetched=True, bytes=manifest.total_size or 0)


@contextlib.contextmanager
def _gone_unless_whole(path: Path) -> Iterator[None]:
    """Half an artifact is worth nothing, and may be as large as the disk: delete it whatever went wrong."""
    try:
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise


@dataclass
class _Transfer:
    """The artifacts of one image on their way into its staging directory."""

    store: ImageStore
    server: ImageServer
    commit: str
    staging: Path
    progress: Progress
    check: Callable[[], None]
    done: int = 0
    total: int | None = None

    def run(self, manifest: Manifest) -> tuple[Manifest, Record]:
        """The manifest with all sizes, and the record of what was verified on the way."""
        parts = {part_path(self.staging / name).name for name in manifest.artifacts}
        self._clear({*manifest.artifacts, *parts})
        kept = {name: self._kept(name, artifact) for name, artifact in manifest.artifacts.items()}
        found = {name: verified for name, verified in kept.items() if verified is not None}
        self.total = manifest.total_size
        self.done = sum(verified.stamp.size for verified in found.values())
        if self.total is not None:
            if not fits(self.staging, self.total - self.done):
                self._clear({*manifest.artifacts})
            require_space(self.staging, self.total - self.done)
        for name, artifact in manifest.artifacts.items():
            if name not in found:
                found[name] = self._fetch(name, artifact)
                self.done += found[name].stamp.size
        self._clear({*manifest.artifacts})
        return _with_sizes(manifest, found), Record(files=found)

    def _clear(self, keep: set[str]) -> None:
        for entry in self.staging.iterdir():
            if entry.name not in keep:
                entry.unlink()

    def _kept(self, name: str, artifact: Artifact) -> Verified | None:
        """A complete artifact from a pull that was interrupted, if it is what the manifest says."""
        with contextlib.suppress(FileNotFoundError, UnsafeCache), opened(self.staging / name) as descriptor:
            if is_complete(descriptor):
                found = verified(descriptor, self.store.new_hash, self.check)
                return found if found.sha256 == artifact.sha256 else None
        return None

    def _fetch(self, name: str, artifact: Artifact) -> Verified:
        with part_of(self.staging / name) as part:
            download = self.server.download(self.commit, name, self.check, part)
            while True:
                try:
                    return self._attempt(name, artifact, download, part)
                except StartAgain:
                    continue
                except ImageCorrupt:
                    if not download.resumed:
                        raise
                    part.discard()  # it may be what an earlier process kept that is damaged

    def _attempt(self, name: str, artifact: Artifact, download: Download, part: Part) -> Verified:
        path = self.staging / name
        expected = Expected(MAX_ARTIFACT_BYTES if artifact.size is None else artifact.size, artifact.size)
        with contextlib.closing(download.chunks()) as chunks, _gone_unless_whole(path):
            found = unpack(
                chunks, path, expected, room=part.make_room, written=self._tell, new_hash=self.store.new_hash
            )
            if found.sha256 != artifact.sha256:
                raise mismatch(f"{name} that {self.server.url} serves", artifact.sha256, found.sha256)
        return found

    def _tell(self, done: int, announced: int | None) -> None:
        self.check()
        self.progress(self.done + done, self.total or announced)


def _with_sizes(manifest: Manifest, found: dict[str, Verified]) -> Manifest:
    artifacts = {
        name: artifact.model_copy(update={"size": found[name].stamp.size})
        for name, artifact in manifest.artifacts.items()
    }
    return manifest.model_copy(update={"artifacts": artifacts})
