"""What an image server offers: the images of a directory, frozen under a commit that is made from their content."""

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ghrunner_vm.clock import SYSTEM, Clock
from ghrunner_vm.images.compress import Changed, CompressedCache, Content
from ghrunner_vm.images.manifest import MAX_MANIFEST_BYTES, Manifest, check_name
from ghrunner_vm.images.signature import MAX_SIGNATURE_BYTES

QUIET_SECONDS = 2.0
"""A file that changed more recently than this is still being written."""
COMMIT_DIGITS = 40
_DISK = ".qcow2"
_MANIFEST = ".json"
_SIGNATURE = ".json.sig"
_QCOW2_MAGIC = b"QFI\xfb"

Warn = Callable[[str], None]


@dataclass(frozen=True)
class Snapshot:
    """What is served under one commit: short answers as bytes and compressed files, by name below the commit."""

    commit: str
    images: tuple[str, ...]
    texts: Mapping[str, bytes]
    compressed: Mapping[str, Path]


class _Unusable(Exception):
    """A file cannot be served as what its name says."""

    def __init__(self, file: str, why: str) -> None:
        super().__init__(f"{file}: {why}")


class _Busy(Exception):
    """A file of this image is being written, or has just gone."""


@dataclass(frozen=True)
class _Image:
    """One image of a snapshot. `hashes` tell the uncompressed content by file name."""

    texts: dict[str, bytes]
    compressed: dict[str, Path]
    hashes: dict[str, str]


class Catalog:
    """The images in `directory`, read anew by each `refresh`. `warn` hears each reason to leave a file out once.

    With `only` there is no other image than that.
    """

    def __init__(
        self, directory: Path, cache: CompressedCache, *, warn: Warn, clock: Clock = SYSTEM, only: str | None = None
    ) -> None:
        self.busy = False
        """Whether the last `refresh` found images that are being written, and left them as they were, or out."""
        self._only = only
        self._directory = directory
        self._cache = cache
        self._warn = warn
        self._clock = clock
        self._told: set[str] = set()
        self._latest: Snapshot | None = None

    def refresh(self) -> Snapshot | None:
        """What should be served now; None while the first images are still being written.

        Blocks for as long as new content takes to compress. Raises OSError.
        """
        images: dict[str, _Image] = {}
        self.busy = False
        for name in self._names():
            try:
                images[name] = self._bundle(name) if self._file(name, _MANIFEST).is_file() else self._plain(name)
            except (_Busy, Changed, FileNotFoundError):
                self.busy = True
                if self._latest is not None and name in self._latest.images:
                    return self._latest  # it is being replaced: the old one stays until the new one is whole
            except _Unusable as error:
                self._tell(f"ignored: {error}")
        if self._latest is not None or images or not self.busy:
            self._latest = _snapshot(images)
        return self._latest

    def prune(self, snapshots: Iterable[Snapshot]) -> None:
        """Delete compressed copies that neither these snapshots nor the files of any directory need. Raises OSError."""
        self._cache.prune({path for snapshot in snapshots for path in snapshot.compressed.values()})

    def _names(self) -> list[str]:
        entries = [entry.name for entry in self._directory.iterdir() if not entry.name.startswith(".")]
        suffixes = (_DISK, _MANIFEST)
        stems = {entry.removesuffix(suffix) for entry in entries for suffix in suffixes if entry.endswith(suffix)}
        return sorted(stem for stem in stems if self._only in (None, stem) and self._is_name(stem))

    def _is_name(self, stem: str) -> bool:
        try:
            check_name(f"{stem}{_DISK}")
        except ValueError as error:
            self._tell(f"ignored: {error}")
            return False
        return True

    def _plain(self, name: str) -> _Image:
        disk = f"{name}{_DISK}"
        content = self._content(disk)
        return _Image(
            {f"{disk}.sha256": _hash_text(content)}, {f"{disk}.zst": content.compressed}, {disk: content.sha256}
        )

    def _bundle(self, name: str) -> _Image:
        text = self._text(self._file(name, _MANIFEST), MAX_MANIFEST_BYTES)
        try:
            manifest = Manifest.parse(text)
        except ValueError as error:
            raise _Unusable(f"{name}{_MANIFEST}", f"no manifest: {error}") from error
        if manifest.name != name:
            raise _Unusable(f"{name}{_MANIFEST}", f"the manifest of {manifest.name!r}")
        image = _Image({f"{name}{_MANIFEST}": text}, {}, {f"{name}{_MANIFEST}": hashlib.sha256(text).hexdigest()})
        for file, artifact in manifest.artifacts.items():
            content = self._content(file)
            if content.sha256 != artifact.sha256 or artifact.size not in (None, content.size):
                raise _Unusable(file, f"not what {name}{_MANIFEST} says")
            image.compressed[f"{file}.zst"] = content.compressed
            image.hashes[file] = content.sha256
            if artifact.role == "disk":
                image.texts[f"{file}.sha256"] = _hash_text(content)
        return self._signed(name, image)

    def _signed(self, name: str, image: _Image) -> _Image:
        path = self._file(name, _SIGNATURE)
        if path.exists():
            text = self._text(path, MAX_SIGNATURE_BYTES)
            image.texts[path.name] = text
            image.hashes[path.name] = hashlib.sha256(text).hexdigest()
        return image

    def _content(self, file: str) -> Content:
        path = self._directory / file
        if path.is_symlink() or not path.is_file():
            raise _Unusable(file, "not a regular file")
        self._require_quiet(path)
        if file.endswith(_DISK) and _start(path) != _QCOW2_MAGIC:
            raise _Unusable(file, "not in qcow2 format")
        return self._cache.prepare(path)

    def _text(self, path: Path, limit: int) -> bytes:
        self._require_quiet(path)
        with _opened(path) as file:
            return file.read(limit + 1)

    def _require_quiet(self, path: Path) -> None:
        # ctime, not mtime: each write changes it, and no tool that copies a file sets it back.
        age = self._clock.wall() - path.stat().st_ctime
        if 0 <= age < QUIET_SECONDS:
            raise _Busy

    def _file(self, name: str, suffix: str) -> Path:
        return self._directory / f"{name}{suffix}"

    def _tell(self, message: str) -> None:
        if message not in self._told:
            self._told.add(message)
            self._warn(message)


def _snapshot(images: Mapping[str, _Image]) -> Snapshot:
    lines = sorted(f"{file} {sha256}\n" for image in images.values() for file, sha256 in image.hashes.items())
    return Snapshot(
        commit=hashlib.sha256("".join(lines).encode()).hexdigest()[:COMMIT_DIGITS],
        images=tuple(images),
        texts={file: text for image in images.values() for file, text in image.texts.items()},
        compressed={file: path for image in images.values() for file, path in image.compressed.items()},
    )


def _hash_text(content: Content) -> bytes:
    return f"{content.sha256}\n".encode()


def _start(path: Path) -> bytes:
    with _opened(path) as file:
        return file.read(len(_QCOW2_MAGIC))


def _opened(path: Path) -> BinaryIO:
    """A regular file, never what a link leads to: whoever may write here must not make us publish other files."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _Unusable(path.name, "a symbolic link") from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _Unusable(path.name, "not a regular file")
    return os.fdopen(descriptor, "rb")
