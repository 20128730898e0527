"""A token that a person made, from the environment or from systemd."""

import os
from collections.abc import Mapping

from pydantic import SecretStr

from ghrunner_vm.config import Settings
from ghrunner_vm.github.secret import credential, read

CREDENTIAL = "github-token"
"""The name under which systemd's LoadCredential= hands the token to a service."""


def read_token(settings: Settings, *, environ: Mapping[str, str] = os.environ) -> SecretStr | None:
    """The token in GHVM_GITHUB_TOKEN, else in `$CREDENTIALS_DIRECTORY/github-token`; None if there is neither.

    Raises PermanentError when the file cannot be used.
    """
    path = credential(CREDENTIAL, environ)
    if settings.github_token is not None or path is None or not os.path.lexists(path):
        return settings.github_token
    return SecretStr(read(path, "token").content.decode(errors="replace").strip())
