"""The App's private key, from a file that others cannot read."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ghrunner_vm.config import Settings
from ghrunner_vm.errors import PermanentError, UsageError
from ghrunner_vm.github.secret import credential, read

CREDENTIAL = "github-private-key"
"""The name under which systemd's LoadCredential= hands the key to a service."""


@dataclass(frozen=True)
class PrivateKey:
    """A key in PEM form, and what a person should be warned about."""

    pem: bytes = field(repr=False)
    warning: str | None = None


def read_private_key(settings: Settings, *, environ: Mapping[str, str] = os.environ) -> PrivateKey:
    """The key in `github-private-key`, else in `$CREDENTIALS_DIRECTORY/github-private-key`.

    Raises UsageError when neither is set, PermanentError when the file is missing, readable by the world or no key.
    """
    ours = credential(CREDENTIAL, environ)
    path = settings.github_private_key or ours
    if path is not None:
        return _read(path, from_systemd=path == ours)
    resolution = "Give --github-private-key PATH, or LoadCredential=github-private-key:PATH in the unit."
    raise UsageError("no private key of the GitHub App is set", resolution=resolution)


def _read(path: Path, *, from_systemd: bool) -> PrivateKey:
    secret = read(path, "private key")
    if b"-----BEGIN " not in secret.content or b"PRIVATE KEY-----" not in secret.content:
        raise PermanentError(f"{path}: not a private key in PEM form", resolution="Name the App's .pem file.")
    # systemd lets a service's user in by an access list, whose mask shows as the group's bits.
    shared = secret.shared and not from_systemd
    warning = f"{path}: the group can read the private key (chmod 600 {path})" if shared else None
    return PrivateKey(secret.content, warning)
