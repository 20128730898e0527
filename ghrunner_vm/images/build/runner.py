"""GitHub's runner for an image: its tarball, and who says that it is GitHub's."""

import re
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Protocol

from ghrunner_vm.errors import UsageError
from ghrunner_vm.images.build import tarballs
from ghrunner_vm.images.build.fetch import Progress, fetch
from ghrunner_vm.images.build.tarballs import TarballCache
from ghrunner_vm.images.manifest import Arch

LATEST = "latest"

_ARCHITECTURES = {"x86_64": "x64", "aarch64": "arm64"}
_VERSION = re.compile(r"v?([0-9]{1,5}(?:\.[0-9]{1,5}){2})")
_FILENAME = re.compile(r"actions-runner-linux-(x64|arm64)-([0-9]{1,5}(?:\.[0-9]{1,5}){2})\.tar\.gz")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_UNPACKED = 8 << 30
_LISTENER = "bin/Runner.Listener"

Warn = Callable[[str], None]


class Offer(Protocol):
    """A runner that GitHub serves: `runner-application` of its OpenAPI description."""

    @property
    def os(self) -> str: ...
    @property
    def architecture(self) -> str: ...
    @property
    def download_url(self) -> str: ...
    @property
    def filename(self) -> str: ...
    @property
    def sha256_checksum(self) -> str | None: ...


@dataclass(frozen=True)
class RunnerTarball:
    """A runner's tarball on this host."""

    version: str
    date: date
    """The day on which its listener was built."""
    path: Path
    sha256: str
    verified: bool
    """Whether GitHub's list, or the person who gave a hash, vouches for it."""


@dataclass(frozen=True)
class RunnerWish:
    """`what` is `latest`, a version or a local tarball; `sha256` what it must be, if the person knows."""

    what: str
    arch: Arch
    sha256: str | None = None


def runner(
    wish: RunnerWish, offered: Callable[[], Sequence[Offer]], cache: TarballCache, *, warn: Warn, progress: Progress
) -> RunnerTarball:
    """The tarball that is wished for; nothing reads it before its hash has been checked.

    `offered` asks GitHub, and raises UsageError when the settings do not suffice for that. Raises UsageError,
    InfrastructureError (WrongHash among them) and what `offered` raises.
    """
    if wish.sha256 is not None and _SHA256.fullmatch(wish.sha256) is None:
        raise UsageError("--runner-sha256 is no SHA-256", resolution="Give 64 hexadecimal digits, in lower case.")
    if wish.what != LATEST and _VERSION.fullmatch(wish.what) is None:
        return _local(wish, offered, cache, warn)
    return _downloaded(wish, _ask(wish, offered), cache, progress)


def _local(wish: RunnerWish, offered: Callable[[], Sequence[Offer]], cache: TarballCache, warn: Warn) -> RunnerTarball:
    path = Path(wish.what)
    if not path.is_file():
        raise UsageError(
            f"--runner {wish.what} is neither a file, nor a version such as 2.330.0, nor latest",
            resolution="Give the path of a tarball, a version, or latest.",
        )
    version = _version(path.name, wish.arch)
    wanted = wish.sha256 or _listed(path.name, offered)
    with path.open("rb") as file:
        kept, sha256 = cache.add(tarballs.blocks(file), str(path), wanted)
    if wanted is None:
        warn(f"nobody vouches for {path}: GitHub's list does not name it. Its SHA-256 is {sha256}")
    return RunnerTarball(version, _built(kept, path.name), kept, sha256, verified=wanted is not None)


def _listed(name: str, offered: Callable[[], Sequence[Offer]]) -> str | None:
    """The hash of what GitHub serves by this name; None if it names no such file, or cannot be asked."""
    try:
        return next((_hash(offer) for offer in offered() if offer.filename == name), None)
    except UsageError:
        return None


def _ask(wish: RunnerWish, offered: Callable[[], Sequence[Offer]]) -> Offer:
    """What GitHub serves for this architecture."""
    try:
        offers = offered()
    except UsageError as error:
        raise UsageError(
            f"--runner {wish.what} asks GitHub, and the settings do not suffice for that",
            details=error.brief,
            resolution="Give the GitHub settings that `ghvm run` takes, or a tarball: --runner FILE.",
        ) from error
    wanted = ("linux", _ARCHITECTURES[wish.arch])
    for offer in offers:
        if (offer.os, offer.architecture) == wanted:
            return offer
    raise UsageError(f"GitHub serves no runner for {wish.arch}", resolution="Give a tarball: --runner FILE.")


def _downloaded(wish: RunnerWish, offer: Offer, cache: TarballCache, progress: Progress) -> RunnerTarball:
    newest = _version(offer.filename, wish.arch)
    match = _VERSION.fullmatch(wish.what)
    version = newest if match is None else match[1]
    sha256 = wish.sha256 or (_hash(offer) if version == newest else None)
    if sha256 is None:
        raise UsageError(
            f"Nobody vouches for runner {version}",
            details=f"GitHub serves {newest} now, and tells the hash of nothing else.",
            resolution="Give --runner-sha256, from the page of its release, or take the newest: --runner latest.",
        )
    # GitHub's addresses, and their names, differ in the version alone.
    url, name = (text.replace(newest, version) for text in (offer.download_url, offer.filename))
    path = cache.find(sha256) or cache.add(fetch(url, progress), name, sha256)[0]
    return RunnerTarball(version, _built(path, name), path, sha256, verified=True)


def _hash(offer: Offer) -> str | None:
    text = (offer.sha256_checksum or "").lower()
    return text if _SHA256.fullmatch(text) else None


def _version(filename: str, arch: Arch) -> str:
    match = _FILENAME.fullmatch(filename)
    if match is None:
        raise UsageError(
            f"The version of the runner cannot be told from the name {filename!r}",
            resolution="Name the tarball as GitHub does: actions-runner-linux-x64-2.330.0.tar.gz",
        )
    if match[1] != _ARCHITECTURES[arch]:
        raise UsageError(f"{filename} is a runner for {match[1]}, and the image is for {arch}")
    return match[2]


def _built(path: Path, name: str) -> date:
    """The newest time of the listener in a tarball."""
    try:
        with tarfile.open(path, "r:gz") as archive:
            times = [entry.mtime for entry in _bounded(archive, name) if entry.isfile() and _is_listener(entry)]
        if times:
            return datetime.fromtimestamp(max(times), UTC).date()
    except (tarfile.TarError, EOFError, OSError, ValueError, OverflowError, zlib.error) as error:
        raise UsageError(f"{name} is no tarball of a runner", details=str(error)) from error
    raise UsageError(f"{name} holds no runner", details=f"It has no {_LISTENER}.")


def _bounded(archive: tarfile.TarFile, name: str) -> Iterator[tarfile.TarInfo]:
    """What an archive has, as long as it is not absurdly much: a few bytes can unpack to a full disk."""
    size = 0
    for entry in archive:
        size += entry.size
        if size > _MAX_UNPACKED:
            raise tarballs.too_long(name)
        yield entry


def _is_listener(entry: tarfile.TarInfo) -> bool:
    return entry.name.removeprefix("./") == _LISTENER
