"""The signature of a manifest: `NAME.json.sig`, a small JSON file beside `NAME.json`.

What is signed are the bytes of the manifest as they are, and a serial that only grows: without it, a server could offer
an old image with known flaws and the signature that it once had.
"""

import base64
import binascii
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, ValidationError

from ghrunner_vm.images.errors import ImageUntrusted
from ghrunner_vm.images.keys import PublicKey
from ghrunner_vm.images.manifest import OwnFile

MAX_SERIAL = (1 << 53) - 1
"""The largest whole number that every reader of JSON gets right."""
MAX_SIGNATURE_BYTES = 4096
_DOMAIN = b"ghvm image manifest v1\0"
"""So that nothing else that is ever signed with this key passes for a manifest."""
_SERIAL_BYTES = 8
_SIGNATURE_BYTES = 64


def _base64(text: str) -> str:
    try:
        raw = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from error
    if len(raw) != _SIGNATURE_BYTES:
        raise ValueError(f"a signature has {_SIGNATURE_BYTES} bytes")
    if base64.b64encode(raw).decode() != text:  # four bits of its last letter mean nothing
        raise ValueError("a signature is written in one way only")
    return text


Serial = Annotated[int, Field(ge=1, le=MAX_SERIAL)]
KeyId = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]


class Signature(OwnFile):
    """The file `NAME.json.sig`. `key` is the id of the public key; `signature` is in base64."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    serial: Serial
    key: KeyId
    signature: Annotated[str, AfterValidator(_base64)]

    @classmethod
    def parse(cls, content: bytes) -> Self:
        """A signature from the bytes of its file; raises ValueError."""
        return cls.model_validate_json(content)


@dataclass(frozen=True)
class SignedManifest:
    """The bytes of a manifest and those of its signature file, as they were published. Nothing is checked yet."""

    manifest: bytes
    signature: bytes


def signed_bytes(serial: int, manifest: bytes) -> bytes:
    """What the signature is made of."""
    return _DOMAIN + serial.to_bytes(_SERIAL_BYTES, "big") + manifest


def verified(name: str, signed: SignedManifest, keys: Iterable[PublicKey]) -> Signature:
    """The signature of the image `name`, if one of these keys made it; raises ImageUntrusted."""
    try:
        signature = Signature.parse(signed.signature)
    except ValidationError as error:
        raise _refused(f"The signature of the image {name} is none", "It is not a file as ghvm writes it.") from error
    known = {key.id: key for key in keys}
    if signature.key not in known:
        trusted = ", ".join(sorted(known))
        raise _refused(
            f"The image {name} is signed with a key that is not trusted", f"key {signature.key}, trusted: {trusted}"
        )
    if not _is_made_by(known[signature.key], signature, signed.manifest):
        raise _refused(
            f"The signature of the image {name} is wrong",
            f"key {signature.key}, serial {signature.serial}: they did not sign this manifest.",
        )
    return signature


def _is_made_by(key: PublicKey, signature: Signature, manifest: bytes) -> bool:
    # Only here: it takes longer to load than to verify, and most hosts' runs need not.
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        public = Ed25519PublicKey.from_public_bytes(key.raw)
        public.verify(base64.b64decode(signature.signature), signed_bytes(signature.serial, manifest))
    except (InvalidSignature, ValueError):
        return False
    return True


def _refused(brief: str, details: str) -> ImageUntrusted:
    return ImageUntrusted(
        brief,
        details=details,
        resolution="If you trust who published it, have it signed (ghvm images sign), or add the key to "
        "images-trusted-keys. Else find out who can write to the image server.",
    )
