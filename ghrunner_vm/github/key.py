"""The App's private key, from a file that others cannot read."""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ghrunner_vm.config import Settings
from ghrunner_vm.errors import PermanentError, UsageError

CREDENTIAL = "github-private-key"
"""The name under which systemd's LoadCredential= hands the key to a service."""
_MAX_KEY = 64 << 10


@dataclass(frozen=True)
class PrivateKey:
    """A key in PEM form, and what a person should be warned about."""

    pem: bytes = field(repr=False)
    warning: str | None = None


def read_private_key(settings: Settings, *, environ: Mapping[str, str] = os.environ) -> PrivateKey:
    """The key in `github-private-key`, else in `$CREDENTIALS_DIRECTORY/github-private-key`.

    Raises UsageError when neither is set, PermanentError when the file is missing, readable by the world or no key.
    """
    directory = environ.get("CREDENTIALS_DIRECTORY")
    credential = Path(directory) / CREDENTIAL if directory else None
    path = settings.github_private_key or credential
    if path is not None:
        return _read(path, from_systemd=path == credential)
    resolution = "Give --github-private-key PATH, or LoadCredential=github-private-key:PATH in the unit."
    raise UsageError("no private key of the GitHub App is set", resolution=resolution)


def _read(path: Path, *, from_systemd: bool) -> PrivateKey:
    try:
        # Without O_NONBLOCK a named pipe would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        resolution = "Check the path, and that ghvm's user may read the file."
        raise PermanentError(
            f"{path}: the private key cannot be read: {error.strerror}", resolution=resolution
        ) from error
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise PermanentError(f"{path}: not a file", resolution="Name the App's .pem file.")
        if mode & stat.S_IROTH:
            resolution = f"Run: chmod 600 {path}"
            raise PermanentError(f"{path}: every user can read the private key", resolution=resolution)
        pem = os.read(descriptor, _MAX_KEY)
    finally:
        os.close(descriptor)
    if b"-----BEGIN " not in pem or b"PRIVATE KEY-----" not in pem:
        raise PermanentError(f"{path}: not a private key in PEM form", resolution="Name the App's .pem file.")
    # systemd lets a service's user in by an access list, whose mask shows as the group's bits.
    shared = bool(mode & stat.S_IRGRP) and not from_systemd
    warning = f"{path}: the group can read the private key (chmod 600 {path})" if shared else None
    return PrivateKey(pem, warning)
