"""Public keys of those who sign images, as text: `ed25519:BASE64`. Light to import: nothing is verified here."""

import base64
import binascii
import contextlib
import hashlib
from dataclasses import dataclass
from typing import Self

_PREFIX = "ed25519:"
_BYTES = 32
_ID_DIGITS = 16


@dataclass(frozen=True)
class PublicKey:
    """An Ed25519 public key (RFC 8032): 32 bytes."""

    raw: bytes

    @classmethod
    def parse(cls, text: str) -> Self:
        """A key from its text; raises ValueError."""
        with contextlib.suppress(binascii.Error):
            key = cls(base64.b64decode(text.removeprefix(_PREFIX), validate=True))
            if len(key.raw) == _BYTES and str(key) == text:
                return key
        raise ValueError(f"{text[:100]!r} is no public key: {_PREFIX} and {_BYTES} bytes in base64")

    @property
    def id(self) -> str:
        """What the key is called in signatures and for people: the first digits of its SHA-256."""
        return hashlib.sha256(self.raw).hexdigest()[:_ID_DIGITS]

    def __str__(self) -> str:
        return _PREFIX + base64.b64encode(self.raw).decode()
