"""Which images may boot here: those that a trusted key has signed, and none older than what was used before."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ghrunner_vm import config
from ghrunner_vm.config import Settings
from ghrunner_vm.images.errors import ImageUntrusted
from ghrunner_vm.images.keys import PublicKey
from ghrunner_vm.images.manifest import Manifest
from ghrunner_vm.images.serials import Serials, make_private
from ghrunner_vm.images.signature import Signature, SignedManifest, verified

_DIRECTORY = "trust"
_TOLD = "told"


@dataclass(frozen=True)
class Trust:
    """Whose images are taken. Without keys it is everybody's: then nothing is looked at, and nothing remembered."""

    keys: tuple[PublicKey, ...] = ()
    serials: Serials | None = None

    def check(self, manifest: Manifest, signed: SignedManifest | None) -> Signature | None:
        """The signature by which this image may boot; None if none is needed.

        Raises ImageUntrusted, and PermanentError if what was used before cannot be told.
        """
        if not self.keys:
            return None
        if signed is None:
            raise _unsigned(manifest)
        signature = verified(manifest.name, signed, self.keys)
        highest = 0 if self.serials is None else self.serials.highest(manifest.name, self._ids)
        if signature.serial < highest:
            raise _rolled_back(manifest.name, signature.serial, highest)
        return signature

    def allows(self, manifest: Manifest, signed: SignedManifest | None) -> bool:
        """Whether `check` lets it pass."""
        try:
            self.check(manifest, signed)
        except ImageUntrusted:
            return False
        return True

    def remember(self, name: str, signature: Signature | None) -> None:
        """This image is used: an older one never again. Raises PermanentError and OSError."""
        if signature is not None and self.serials is not None:
            self.serials.remember(name, signature)

    @property
    def _ids(self) -> tuple[str, ...]:
        return tuple(key.id for key in self.keys)


ANYBODY = Trust()


def trust(settings: Settings) -> Trust:
    """As the settings say."""
    keys = tuple(map(PublicKey.parse, settings.images_trusted_keys))
    return Trust(keys, Serials(_directory(settings))) if keys else ANYBODY


def tell_once(settings: Settings, tell: Callable[[str], None]) -> None:
    """Say whom this host believes when it trusts no keys, once for each state directory."""
    told = _directory(settings) / _TOLD
    if settings.images_trusted_keys or told.exists():
        return
    tell(
        f"no images-trusted-keys are set: what {settings.images_server} serves is booted as it comes, "
        "signed or not (told once)"
    )
    with contextlib.suppress(OSError):  # then it is told again
        make_private(told.parent)
        told.touch(mode=0o600)


def _directory(settings: Settings) -> Path:
    return config.state_directory(settings) / _DIRECTORY


def _unsigned(manifest: Manifest) -> ImageUntrusted:
    if _is_plain(manifest):
        return ImageUntrusted(
            f"The image {manifest.name} is a plain disk, which nobody can sign",
            details="images-trusted-keys are set, and only a bundle has a manifest to sign.",
            resolution="Publish it as a bundle with a signed manifest, or use another image.",
        )
    return ImageUntrusted(
        f"The image {manifest.name} is not signed",
        details="images-trusted-keys are set.",
        resolution="Have its publisher sign it (ghvm images sign) and publish it again.",
    )


def _is_plain(manifest: Manifest) -> bool:
    """Whether it is what ghvm makes up for a disk without a manifest."""
    if manifest.only("disk") is None:
        return False
    artifact = manifest.artifacts[manifest.disk]
    return manifest.disk == f"{manifest.name}.qcow2" and manifest.same_content(
        Manifest.plain(manifest.name, sha256=artifact.sha256)
    )


def _rolled_back(name: str, serial: int, highest: int) -> ImageUntrusted:
    return ImageUntrusted(
        f"The image {name} is older than one that this host has used",
        details=f"Its serial is {serial}, the highest so far is {highest}.",
        resolution="If going back is what its publisher wants, let them sign it anew: each signature has a higher "
        "serial. Else somebody replays old images.",
    )
