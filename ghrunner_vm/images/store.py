"""The image cache: one directory per commit and image, complete from the moment it has its name.

DIR/{commit}/{name}/     the artifacts (0444), manifest.json, verified.json, lease; and if it is signed, manifest.signed
                         (the manifest byte by byte as it was published) and manifest.sig
DIR/.staging/            what is being pulled: see staging.py
DIR/.trash/              what is being deleted
"""

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ghrunner_vm import files
from ghrunner_vm.clock import SYSTEM, Clock
from ghrunner_vm.errors import UsageError
from ghrunner_vm.images.directories import clear, directories, make_directory
from ghrunner_vm.images.errors import ImageCorrupt, ImageMissing, corrupt, mismatch
from ghrunner_vm.images.locking import lock_within, nothing
from ghrunner_vm.images.manifest import Manifest, check_name
from ghrunner_vm.images.signature import Signature, SignedManifest
from ghrunner_vm.images.space import writing
from ghrunner_vm.images.staging import RECORD_BYTES, Staging
from ghrunner_vm.images.trust import ANYBODY, Trust
from ghrunner_vm.images.verify import (
    RECORD,
    NewHash,
    Record,
    Stamp,
    Verified,
    check_directory,
    content,
    opened,
    verified,
)

MANIFEST = "manifest.json"
SIGNED = "manifest.signed"
SIGNATURE = "manifest.sig"
LEASE = "lease"
LEASE_SECONDS = 10.0
"""An exclusive lease lasts for one rename, so a shared one never waits long."""


@dataclass(frozen=True)
class LeasedImage:
    """An image that stays where it is. `files` are open, verified descriptors by artifact name.

    `lease_fd` holds the lease: a child that inherits it keeps the image as long as it lives.
    """

    commit: str
    name: str
    manifest: Manifest
    files: Mapping[str, int]
    lease_fd: int
    signature: Signature | None = None
    """Verified; None if no keys are trusted."""

    @property
    def disk_fd(self) -> int:
        """The descriptor of the disk of an image for QEMU."""
        return self.files[self.manifest.disk]


@dataclass(frozen=True)
class CachedImage:
    """An image in the cache: its size in bytes, and the seconds since it was completed."""

    commit: str
    name: str
    size: int
    age_seconds: float
    in_use: bool


class ImageStore:
    """The cache in `directory`, which is made if it is missing. Several processes share it safely.

    Only what `trust` allows is leased and pulled; it may hold more.
    """

    def __init__(
        self,
        directory: Path,
        *,
        trust: Trust = ANYBODY,
        new_hash: NewHash = hashlib.sha256,
        clock: Clock = SYSTEM,
    ) -> None:
        self.directory = directory
        self.trust = trust
        self.new_hash = new_hash
        self.clock = clock
        with writing(directory, RECORD_BYTES):
            make_directory(directory, parents=True)
        self._staging = Staging(directory / ".staging", clock)

    def path(self, commit: str, name: str) -> Path:
        """Where an image lies once it is complete; raises UsageError for names that are none."""
        try:
            return self.directory / check_name(commit) / check_name(name)
        except ValueError as error:
            raise UsageError("This is not the name of an image", details=str(error)) from error

    def has(self, commit: str, name: str) -> bool:
        """Whether the image is complete and trusted. Its content is verified when it is leased, not here."""
        path = self.path(commit, name)
        try:
            self._check(path)
            manifest = read_manifest(path)
            trusted = self.trust.allows(manifest, read_signed(path, manifest))
        except (FileNotFoundError, ValueError, ImageCorrupt):
            return False
        return trusted and all((path / artifact).is_file() for artifact in manifest.artifacts)

    @contextlib.contextmanager
    def lease(self, commit: str, name: str, *, full: bool = False) -> Iterator[LeasedImage]:
        """Hold an image and open its artifacts, verified. `full` hashes everything, whatever the record says.

        Raises ImageMissing, ImageCorrupt (the copy is moved out of the way), ImageUntrusted and UnsafeCache.
        """
        path = self.path(commit, name)
        with contextlib.ExitStack() as stack:
            try:
                self._check(path)
                lease = stack.enter_context(lock_within(path / LEASE, LEASE_SECONDS, shared=True, clock=self.clock))
            except FileNotFoundError as error:
                raise self._missing(commit, name) from error
            try:
                image = self._opened(stack, path, lease)
                self._verify(path, image, full=full)
            except ImageCorrupt as error:
                self._discard(path, lease, error)
                raise
            yield image

    def newest(self, name: str, *, trusted: bool = True) -> str | None:
        """The commit of this image that was completed last, or None. `trusted`: of those that may be leased."""
        found = [image for image in self._complete() if image.path.name == name]
        for image in sorted(found, key=lambda one: one.completed_ns, reverse=True):
            commit = image.path.parent.name
            if not trusted or self.has(commit, name):
                return commit
        return None

    def images(self) -> list[CachedImage]:
        """All complete images, the newest first."""
        found = sorted(self._complete(), key=lambda image: image.completed_ns, reverse=True)
        described = []
        for image in found:
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                described.append(self._described(image))
        return described

    def remove(self, commit: str, name: str) -> int | None:
        """Delete an image; the bytes that this frees, or None if it is in use or gone. Raises CacheNotWritable."""
        path = self.path(commit, name)
        try:
            with writing(path, None), files.lock(path / LEASE, wait=False):
                size = _size(path)
                trash = self._to_trash(path)
        except (FileNotFoundError, files.Locked):
            return None
        shutil.rmtree(trash, ignore_errors=True)
        with contextlib.suppress(OSError):
            path.parent.rmdir()
        return size

    @contextlib.contextmanager
    def staging(self, commit: str, name: str, check: Callable[[], None] = nothing) -> Iterator[Path]:
        """The directory in which to prepare an image, ours alone. `check` is called while waiting and may raise.

        What the file system refuses inside the block raises DiskFull, which empties the directory, or CacheNotWritable.
        """
        with self._staging.hold(commit, self.path(commit, name).name, check) as directory:
            yield directory

    def publish(
        self, staging: Path, manifest: Manifest, record: Record, commit: str, signed: SignedManifest | None = None
    ) -> None:
        """Give a complete staging directory its name. A crash before the rename leaves it in staging.

        Raises ImageCorrupt for a manifest that is not the `signed` one.
        """
        target = self.path(commit, manifest.name)
        record.write(staging)
        if signed is not None:
            _require_same(signed, manifest)
            files.write_atomically(staging / SIGNED, signed.manifest, mode=0o444)
            files.write_atomically(staging / SIGNATURE, signed.signature, mode=0o444)
        files.write_atomically(staging / MANIFEST, manifest.to_json(), mode=0o444)
        os.close(files.open_lock(staging / LEASE))  # so that a lease of it never has to write
        files.sync_directory(staging)
        make_directory(target.parent)
        if os.path.lexists(target):  # incomplete: somebody took files out of it
            self._to_trash(target)
        try:
            staging.rename(target)
        except FileNotFoundError:  # `remove` has just taken away the commit's directory, which was empty
            make_directory(target.parent)
            staging.rename(target)
        files.sync_directory(target.parent)
        files.sync_directory(self.directory)

    def clear_leftovers(self) -> None:
        """Delete what crashed pulls and prunes left, except staging that somebody holds or may soon go on from."""
        self._staging.clear_old()
        clear(self._trash)
        for commit in directories(self.directory):
            with contextlib.suppress(OSError):  # only an empty one goes
                commit.rmdir()

    @property
    def _trash(self) -> Path:
        return self.directory / ".trash"

    def _check(self, path: Path) -> None:
        for directory in (self.directory, path.parent, path):
            check_directory(directory)

    def _opened(self, stack: contextlib.ExitStack, path: Path, lease: int) -> LeasedImage:
        commit, name = path.parent.name, path.name
        try:
            manifest = read_manifest(path)
            signed = read_signed(path, manifest)
            held = {artifact: stack.enter_context(opened(path / artifact)) for artifact in manifest.artifacts}
        except (FileNotFoundError, ValueError) as error:
            raise corrupt(f"The cached image {name} is not complete", str(error)) from error
        return LeasedImage(commit, name, manifest, held, lease, self.trust.check(manifest, signed))

    def _verify(self, path: Path, image: LeasedImage, *, full: bool) -> None:
        known = {} if full else Record.read(path).files
        now = {}
        for artifact, descriptor in image.files.items():
            expected = image.manifest.artifacts[artifact].sha256
            trusted = Verified(sha256=expected, stamp=Stamp.of(descriptor))
            now[artifact] = trusted if known.get(artifact) == trusted else verified(descriptor, self.new_hash)
            if now[artifact].sha256 != expected:
                raise mismatch(f"{image.name} ({artifact})", expected, now[artifact].sha256)
            if now[artifact].stamp != Stamp.of(descriptor):
                raise corrupt(f"The cached image {image.name} changed while it was read", str(path / artifact))
        if now != known:
            with contextlib.suppress(OSError):  # a full or read-only disk: the next lease reads everything again
                Record(files=now).write(path)

    def _discard(self, path: Path, lease: int, found: ImageCorrupt) -> None:
        try:
            # Not if a pull has put a good copy there meanwhile.
            if os.path.samestat(os.fstat(lease), (path / LEASE).lstat()):
                self._to_trash(path)
        except FileNotFoundError:
            return
        except OSError as error:
            found.resolution = f"Remove {path}, which ghvm may not ({error.strerror}), and pull it again."

    def _to_trash(self, path: Path) -> Path:
        make_directory(self._trash)
        return path.rename(self._trash / secrets.token_hex(8))

    def _complete(self) -> Iterator["_Complete"]:
        for commit in directories(self.directory):
            for path in directories(commit):
                with contextlib.suppress(OSError, ValueError):
                    if read_manifest(path).name == path.name and (path / RECORD).is_file():
                        yield _Complete(path, (path / MANIFEST).lstat().st_mtime_ns)

    def _described(self, image: "_Complete") -> CachedImage:
        path = image.path
        try:
            with files.lock(path / LEASE, wait=False):
                in_use = False
        except files.Locked:
            in_use = True
        age = max(0.0, self.clock.wall() - image.completed_ns / 1e9)
        return CachedImage(path.parent.name, path.name, _size(path), age, in_use)

    def _missing(self, commit: str, name: str) -> ImageMissing:
        return ImageMissing(
            f"The image {name} is not in the cache",
            details=f"commit {commit}, cache {self.directory}",
            resolution=f"Fetch it with `ghvm images pull {name}`.",
        )


@dataclass(frozen=True)
class _Complete:
    path: Path
    completed_ns: int


def read_manifest(directory: Path) -> Manifest:
    """The manifest of a cached image; raises FileNotFoundError, UnsafeCache and ValueError."""
    manifest = Manifest.parse(content(directory / MANIFEST))
    if manifest.name != directory.name:
        raise ValueError(f"the manifest is that of {manifest.name!r}")
    return manifest


def read_signed(directory: Path, manifest: Manifest) -> SignedManifest | None:
    """The signed form of a cached image's manifest, None if it has none; raises UnsafeCache.

    Raises ImageCorrupt if it says something else than `manifest`.
    """
    try:
        signed = SignedManifest(content(directory / SIGNED), content(directory / SIGNATURE))
    except FileNotFoundError:
        return None
    _require_same(signed, manifest)
    return signed


def _require_same(signed: SignedManifest, manifest: Manifest) -> None:
    """What boots is described by `manifest`, which has the sizes of all artifacts: all else is as it was signed."""
    try:
        same = Manifest.parse(signed.manifest).same_content(manifest)
    except ValueError:
        same = False
    if not same:
        raise corrupt(f"The manifest of the image {manifest.name} is not the one that was signed", f"See {SIGNED}.")


def _size(path: Path) -> int:
    return sum(entry.lstat().st_size for entry in path.iterdir())
