"""Who we are to GitHub: an App's installation, or a token."""

import contextlib
import threading
from dataclasses import dataclass
from typing import Protocol

from pydantic import SecretStr

from ghrunner_vm import process
from ghrunner_vm.errors import GhvmError, PermanentError, UsageError
from ghrunner_vm.github.faults import PERMISSIONS, refused
from ghrunner_vm.github.models import Installation, InstallationToken
from ghrunner_vm.github.scope import Kind, Scope
from ghrunner_vm.github.signing import sign, signer
from ghrunner_vm.github.transport import Answer, Transport

_REFRESH_SECONDS = 5 * 60
_DRIFT_SECONDS = 30
_FAREWELL_SECONDS = 1.0


class Auth(Protocol):
    """Where the client gets its bearer token from."""

    def bearer(self, transport: Transport, scope: Scope) -> SecretStr:
        """A token with some life left. Raises PermanentError or InfrastructureError."""

    def renew(self, stale: SecretStr) -> bool:
        """Drop a token that GitHub no longer takes; whether there can be another one."""

    def revoke(self, transport: Transport) -> None:
        """End tokens that were made here; never raises."""


class TokenAuth:
    """A token that a person made: a classic one for enterprises, any kind elsewhere."""

    def __init__(self, token: str | SecretStr) -> None:
        """Raises UsageError when the text cannot be a token."""
        text = token.get_secret_value() if isinstance(token, SecretStr) else token
        if not text or not text.isascii() or not text.isprintable() or " " in text:
            resolution = "Set GHVM_GITHUB_TOKEN to the token alone, without spaces or a line's end."
            raise UsageError("the GitHub token holds characters that no token has", resolution=resolution)
        self._token = SecretStr(text)

    def bearer(self, transport: Transport, scope: Scope) -> SecretStr:  # noqa: ARG002 the interface of Auth
        """The token."""
        return self._token

    def renew(self, stale: SecretStr) -> bool:  # noqa: ARG002 the interface of Auth
        """There is only this one."""
        return False

    def revoke(self, transport: Transport) -> None:
        """Nothing was made here."""


@dataclass(frozen=True)
class _Issued:
    token: SecretStr
    expires_at: float


class AppAuth:
    """A GitHub App: finds its installation and keeps a token with runner permissions only.

    One object serves one GitHub client, from any number of threads.
    """

    def __init__(self, client_id: str, private_key_pem: bytes, ready: process.Program | None = None) -> None:
        """`client_id` may be the App's number as text; `ready` is a signer for the first token."""
        self._client_id = client_id
        self._key = SecretStr(private_key_pem.decode("ascii", errors="replace"))
        self._ready = ready
        self._lock = threading.Lock()
        self._issued: _Issued | None = None

    def bearer(self, transport: Transport, scope: Scope) -> SecretStr:
        """The installation token, renewed when less than five minutes of its hour are left.

        Raises PermanentError for a private key that is no RSA key, too.
        """
        with self._lock:
            if self._issued is None or self._issued.expires_at - transport.clock.wall() < _REFRESH_SECONDS:
                self._issued = self._issue(transport, scope)
            return self._issued.token

    def renew(self, stale: SecretStr) -> bool:
        """Forget a token that GitHub refuses, unless another thread did so already."""
        with self._lock:
            if self._issued is not None and self._issued.token == stale:
                self._issued = None
        return True

    def revoke(self, transport: Transport) -> None:
        """`DELETE /installation/token`, once and best effort: the token dies within the hour anyway."""
        # The lock is held while a token is being asked for; an exit does not wait for a GitHub that hangs.
        if not self._lock.acquire(timeout=_FAREWELL_SECONDS):
            return
        try:
            issued, self._issued = self._issued, None
        finally:
            self._lock.release()
        if issued is None:
            return
        try:
            transport.send("DELETE", "/installation/token", bearer=issued.token, tries=1)
        except GhvmError:
            return

    def _issue(self, transport: Transport, scope: Scope) -> _Issued:
        """`GET …/installation`, then `POST /app/installations/{id}/access_tokens`."""
        permission = _permission(scope)
        token = self._signed(transport.clock.wall())
        installation = self._installation(transport, scope, permission, token)
        body: dict[str, object] = {"permissions": {permission: "write"}}
        if scope.kind is Kind.REPO:
            body["repositories"] = [scope.name.partition("/")[2]]
        path = f"/app/installations/{installation.id}/access_tokens"
        answer = transport.send("POST", path, bearer=token, body=body)
        if answer.status != 201:
            raise self._refused(answer, transport, scope, "get an installation token")
        issued = answer.parse(InstallationToken)
        return _Issued(issued.token, issued.expires_at.timestamp())

    def _installation(self, transport: Transport, scope: Scope, permission: str, token: SecretStr) -> Installation:
        answer = transport.send("GET", f"{scope.path}/installation", bearer=token)
        if answer.status == 404 and "integration not found" in answer.message.lower():
            resolution = "Give the Client ID that stands on the App's page in the settings."
            raise PermanentError(
                "GitHub knows no App with this client ID", details=answer.details, resolution=resolution
            )
        if answer.status == 404:
            resolution = f"Install the App on {scope.name}, and check the name."
            raise PermanentError(f"the App is not installed on {scope}", details=answer.details, resolution=resolution)
        if answer.status != 200:
            raise self._refused(answer, transport, scope, "find the App's installation")
        installation = answer.parse(Installation)
        if installation.suspended_at is not None:
            details = f"since {installation.suspended_at:%Y-%m-%d %H:%M %Z}"
            resolution = "An owner must unsuspend it in the settings of its installation."
            raise PermanentError(
                f"the App's installation on {scope} is suspended", details=details, resolution=resolution
            )
        if installation.permissions.get(permission) != "write":
            resolution = f'Grant the App "{permission}: write", and accept the change in its installation.'
            raise PermanentError(f"the App may not manage the runners of {scope}", resolution=resolution)
        return installation

    def _signed(self, now: float) -> SecretStr:
        ready, self._ready = self._ready, None
        with signer() if ready is None else contextlib.nullcontext(ready) as program:
            return SecretStr(sign(program, self._client_id, self._key.get_secret_value(), now))

    def _refused(self, answer: Answer, transport: Transport, scope: Scope, doing: str) -> GhvmError:
        if answer.status != 401:
            return refused(answer, scope, doing)
        drift = transport.clock.wall() - answer.date if answer.date is not None else 0
        if abs(drift) <= _DRIFT_SECONDS:
            resolution = "Check that the client ID and the private key belong to the same App."
            return PermanentError("GitHub does not accept the App's key", details=answer.details, resolution=resolution)
        side = "ahead of" if drift > 0 else "behind"
        brief = f"this host's clock is {_roughly(abs(drift))} {side} GitHub's, which refuses the App for it"
        return PermanentError(
            brief, details=answer.details, resolution="Set the clock, for example with timedatectl set-ntp true."
        )


def _roughly(seconds: float) -> str:
    for size, unit in ((86_400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{round(seconds / size)} {unit}"
    return f"{round(seconds)} seconds"


def _permission(scope: Scope) -> str:
    if scope.kind is Kind.ENTERPRISE:
        resolution = "Set GHVM_GITHUB_TOKEN to a classic token with manage_runners:enterprise."
        raise PermanentError("GitHub lets no App manage an enterprise's runners", resolution=resolution)
    return PERMISSIONS[scope.kind]
