"""Making keys, and signing the manifests of bundles with them. For whoever builds images; hosts need none of it.

cryptography is imported where it is used: the command line loads this to show its help.
"""

import base64
import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from ghrunner_vm import files
from ghrunner_vm.errors import GhvmError, PermanentError, UsageError
from ghrunner_vm.images.keys import PublicKey
from ghrunner_vm.images.manifest import MAX_MANIFEST_BYTES, Manifest
from ghrunner_vm.images.signature import MAX_SERIAL, MAX_SIGNATURE_BYTES, Signature, signed_bytes

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

MANIFEST_SUFFIX = ".json"
SIGNATURE_SUFFIX = ".json.sig"
_MAX_KEY_BYTES = 64 << 10


@dataclass(frozen=True)
class SigningKey:
    """A private key."""

    private: "Ed25519PrivateKey"

    @classmethod
    def generate(cls) -> Self:
        """A new one."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return cls(Ed25519PrivateKey.generate())

    @property
    def public(self) -> PublicKey:
        """What others verify with."""
        return PublicKey(self.private.public_key().public_bytes_raw())

    def sign(self, serial: int, manifest: bytes) -> Signature:
        """The signature of a manifest's bytes."""
        made = self.private.sign(signed_bytes(serial, manifest))
        return Signature(serial=serial, key=self.public.id, signature=base64.b64encode(made).decode())


@dataclass(frozen=True)
class Bundle:
    """A manifest on this host whose artifacts beside it are what it says, and the serial it was last signed with."""

    path: Path
    content: bytes
    manifest: Manifest
    last_serial: int

    @property
    def signature_path(self) -> Path:
        """Where its signature lies."""
        return self.path.with_name(f"{self.manifest.name}{SIGNATURE_SUFFIX}")


def make_key(path: Path) -> PublicKey:
    """A new private key in `path` (0600) and the public one in `path`.pub; never over other files.

    Raises UsageError if there is one of them, or no place for them.
    """
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = SigningKey.generate()
    pem = key.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = path.with_name(f"{path.name}.pub")
    with contextlib.ExitStack() as undo:
        for file, content, mode in ((path, pem, 0o600), (public, f"{key.public}\n".encode(), 0o644)):
            _create(file, content, mode)
            undo.callback(file.unlink)
        undo.pop_all()
    files.sync_directory(path.parent)
    return key.public


def read_key(path: Path) -> SigningKey:
    """The private key in `path`. Raises UsageError if there is none, PermanentError if others may read it."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    content = _own_secret(path)
    no_key = UsageError(
        f"{path} is no key to sign images with", resolution="Give the file that `ghvm images keygen` has made."
    )
    try:
        private = load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise no_key from error
    if not isinstance(private, Ed25519PrivateKey):
        raise no_key
    return SigningKey(private)


def checked(path: Path) -> Bundle:
    """The bundle of a manifest, read to the end. Raises UsageError for what is none, GhvmError for a broken one."""
    content = _read(path, MAX_MANIFEST_BYTES)
    try:
        manifest = Manifest.parse(content)
    except ValueError as error:
        raise UsageError(f"{path} is no manifest", details=str(error)) from error
    if path.name != f"{manifest.name}{MANIFEST_SUFFIX}":
        raise UsageError(f"{path} is the manifest of {manifest.name}", resolution="Name it after its image.")
    for name, artifact in manifest.artifacts.items():
        _check_artifact(path.with_name(name), artifact.size, artifact.sha256)
    return Bundle(path, content, manifest, _last_serial(path.with_name(f"{manifest.name}{SIGNATURE_SUFFIX}")))


def next_serial(bundle: Bundle, wanted: int | None, now: float) -> int:
    """The serial to sign a bundle with: the wanted one, else seconds since 1970, always more than the last.

    Raises UsageError for one that is not more.
    """
    if wanted is None:
        return max(int(now), bundle.last_serial + 1)
    if not bundle.last_serial < wanted <= MAX_SERIAL:
        raise UsageError(
            f"{wanted} cannot be the serial of {bundle.manifest.name}",
            details=f"The last one was {bundle.last_serial}; the largest is {MAX_SERIAL}.",
            resolution="Give a higher one, or leave --serial out.",
        )
    return wanted


def sign(bundle: Bundle, key: SigningKey, serial: int) -> Signature:
    """Write the signature beside the manifest, as one step."""
    signature = key.sign(serial, bundle.content)
    files.write_atomically(bundle.signature_path, signature.to_json(), mode=0o644)
    return signature


def _last_serial(path: Path) -> int:
    if not os.path.lexists(path):
        return 0
    try:
        return Signature.parse(_read(path, MAX_SIGNATURE_BYTES)).serial
    except ValueError as error:
        raise UsageError(
            f"{path} is no signature, so its serial cannot be told",
            resolution="Remove it, and give a --serial that is higher than any before.",
        ) from error


def _check_artifact(path: Path, size: int | None, sha256: str) -> None:
    with _opened(path) as descriptor:
        found = os.fstat(descriptor).st_size
        if size not in (None, found):
            raise _broken(path, f"It has {found} bytes, the manifest says {size}.")
        with os.fdopen(os.dup(descriptor), "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != sha256:
        raise _broken(path, f"sha256 in the manifest {sha256}\nsha256 found           {digest}")


def _broken(path: Path, details: str) -> GhvmError:
    return GhvmError(
        f"{path} is not what the manifest says",
        details=details,
        resolution="Build the image anew: what is signed must be what was built.",
    )


def _own_secret(path: Path) -> bytes:
    with _opened(path) as descriptor:
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise PermanentError(
                f"Others may use the key {path} (mode {mode:04o})",
                resolution=f"chmod 600 {path}, and make a new key if somebody may have read it.",
            )
        return os.read(descriptor, _MAX_KEY_BYTES)


def _read(path: Path, limit: int) -> bytes:
    with _opened(path) as descriptor, os.fdopen(os.dup(descriptor), "rb") as file:
        return file.read(limit + 1)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = files.open_plain(path)
    if descriptor is None:
        raise UsageError(f"{path} cannot be read", details="It is missing, no plain file, or not readable for us.")
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _create(path: Path, content: bytes, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    except FileExistsError as error:
        raise UsageError(
            f"{path} is there already", resolution="Choose another path: a key that is overwritten is lost."
        ) from error
    except OSError as error:
        raise UsageError(f"{path} cannot be made: {error.strerror}") from error
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.write(content)
        file.flush()
        os.fsync(descriptor)
