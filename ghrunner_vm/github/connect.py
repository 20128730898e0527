"""From the settings to a client of GitHub."""

from collections.abc import Callable

from ghrunner_vm.config import Settings
from ghrunner_vm.errors import UsageError
from ghrunner_vm.github.auth import AppAuth, Auth, TokenAuth
from ghrunner_vm.github.client import GitHub
from ghrunner_vm.github.key import read_private_key
from ghrunner_vm.github.scope import Scope
from ghrunner_vm.github.token import read_token
from ghrunner_vm.process import Program

Warn = Callable[[str], None]


def github_client(settings: Settings, warn: Warn, signer: Program | None = None) -> GitHub:
    """A client for the configured scope; `signer` is for its first token if that takes a signature.

    Raises UsageError or PermanentError if the settings do not suffice.
    """
    scope = Scope.parse(settings.scope())
    return GitHub(settings.github_api_url, scope, _auth(settings, warn, signer), warn=warn)


def _auth(settings: Settings, warn: Warn, signer: Program | None) -> Auth:
    token = read_token(settings)
    if token is not None:
        if signer is not None:
            signer.dismiss()
        return TokenAuth(token)
    if settings.github_client_id is None:
        raise UsageError(
            "no credentials for GitHub are set",
            resolution="Give --github-client-id and --github-private-key of a GitHub App, or set GHVM_GITHUB_TOKEN.",
        )
    key = read_private_key(settings)
    if key.warning:
        warn(key.warning)
    return AppAuth(settings.github_client_id, key.pem, signer)
