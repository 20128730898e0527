"""The highest serials of the images that this host has used, so that no older one is taken again.

DIR/serials.json    by name and key, replaced as a whole
DIR/.lock           held while it is
"""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from ghrunner_vm import files
from ghrunner_vm.errors import PermanentError
from ghrunner_vm.images.locking import lock_within
from ghrunner_vm.images.manifest import Name, OwnFile
from ghrunner_vm.images.signature import KeyId, Serial, Signature

FILE = "serials.json"
_LIMIT = 1 << 20
_LOCK_SECONDS = 10.0


class _Highest(OwnFile):
    schema_version: Literal[1] = Field(default=1, alias="schema")
    names: dict[Name, dict[KeyId, Serial]] = Field(default_factory=dict)


class Serials:
    """The record in `directory`, which is made when there is something to remember.

    It is kept by key: when a key is trusted no more, what it signed counts no more either. So whoever stole a key
    cannot shut all later images out with a huge serial.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def highest(self, name: str, keys: Collection[str]) -> int:
        """The highest serial of this image that one of these keys (by id) has signed; 0 if there is none.

        Raises PermanentError for a record that cannot be believed.
        """
        known = self._read().get(name, {})
        return max((serial for key, serial in known.items() if key in keys), default=0)

    def remember(self, name: str, signature: Signature) -> None:
        """Never take one that is older than this. Raises as `highest` does, and OSError."""
        if self.highest(name, (signature.key,)) >= signature.serial:
            return
        make_private(self._directory)
        with lock_within(self._directory / ".lock", _LOCK_SECONDS):
            for staged in self._directory.glob(f".{FILE}.*"):  # of a process that died here
                staged.unlink()
            names = self._read()
            known = names.setdefault(name, {})
            known[signature.key] = max(known.get(signature.key, 0), signature.serial)
            files.write_atomically(self._directory / FILE, _Highest(names=names).to_json())

    def _read(self) -> dict[str, dict[str, int]]:
        path = self._directory / FILE
        if not os.path.lexists(path):
            return {}
        content = files.read_own(path, _LIMIT)
        if content is None:
            raise _unbelievable(path, "It is no plain file of this user's.")
        try:
            return _Highest.model_validate_json(content).names
        except ValidationError as error:
            raise _unbelievable(path, "It is not as ghvm writes it.") from error


def make_private(directory: Path) -> None:
    """Make a directory in the state directory, both for us alone if they are new."""
    for path in (directory.parent, directory):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)


def _unbelievable(path: Path, why: str) -> PermanentError:
    # Counting it as empty would let whoever damaged it bring old images back.
    return PermanentError(
        f"The record of the images that this host has used cannot be believed: {path}",
        details=why,
        resolution="Remove it, once you know that the image server offers no old images.",
    )
