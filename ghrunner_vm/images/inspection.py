"""What an image is, and who vouches for it: looked at, not booted."""

import contextlib
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from ghrunner_vm import files
from ghrunner_vm.errors import UsageError
from ghrunner_vm.images.errors import ImageUntrusted
from ghrunner_vm.images.manifest import MAX_MANIFEST_BYTES, Manifest
from ghrunner_vm.images.signature import MAX_SIGNATURE_BYTES, Signature, SignedManifest
from ghrunner_vm.images.store import ImageStore, read_manifest, read_signed
from ghrunner_vm.images.trust import Trust


class Standing(Enum):
    """What a signature is worth on this host."""

    TRUSTED = "trusted"
    REFUSED = "refused"
    UNCHECKED = "unchecked"
    """No keys are trusted here."""
    UNSIGNED = "unsigned"


@dataclass(frozen=True)
class Inspected:
    """A manifest and its signature. `signature` is what its file claims unless it is trusted; None for no such file."""

    manifest: Manifest
    signature: Signature | None
    standing: Standing
    refusal: ImageUntrusted | None = None
    """Why it would not be booted here."""


def of_cache(store: ImageStore, commit: str, name: str) -> Inspected:
    """An image of the cache, without a look at its artifacts. Raises UsageError, ImageCorrupt and UnsafeCache."""
    path = store.path(commit, name)
    try:
        manifest = read_manifest(path)
    except (FileNotFoundError, ValueError) as error:
        raise UsageError(f"the cache has no whole image {name} {commit}", details=str(error)) from error
    return _inspected(manifest, read_signed(path, manifest), store.trust)


def of_file(path: Path, trust: Trust) -> Inspected:
    """A bundle by the path of its manifest. Raises UsageError."""
    content = _content(path, MAX_MANIFEST_BYTES)
    if content is None:
        raise UsageError(f"{path} cannot be read")
    try:
        manifest = Manifest.parse(content)
    except ValueError as error:
        raise UsageError(f"{path} is no manifest", details=str(error)) from error
    signature = _content(path.with_name(f"{path.name}.sig"), MAX_SIGNATURE_BYTES)
    return _inspected(manifest, None if signature is None else SignedManifest(content, signature), trust)


def _inspected(manifest: Manifest, signed: SignedManifest | None, trust: Trust) -> Inspected:
    claimed = None
    if signed is not None:
        with contextlib.suppress(ValueError):
            claimed = Signature.parse(signed.signature)
    try:
        signature = trust.check(manifest, signed)
    except ImageUntrusted as refusal:
        return Inspected(manifest, claimed, Standing.UNSIGNED if signed is None else Standing.REFUSED, refusal)
    if signature is not None:
        return Inspected(manifest, signature, Standing.TRUSTED)
    return Inspected(manifest, claimed, Standing.UNSIGNED if signed is None else Standing.UNCHECKED)


def _content(path: Path, limit: int) -> bytes | None:
    descriptor = files.open_plain(path)
    if descriptor is None:
        return None
    with open(descriptor, "rb") as file:  # noqa: PTH123 a descriptor
        return file.read(limit + 1)
