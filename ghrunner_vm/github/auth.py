"""Who we are to GitHub: an App's installation, or a token."""

import contextlib
import threading
from dataclasses import dataclass
from typing import Protocol

from pydantic import SecretStr

from ghrunner_vm import process
from ghrunner_vm.errors import GhvmError, PermanentError, UsageError
from ghrunner_vm.github.faults import PERMISSIONS, refused
from ghrunner_vm.github.models import App, Installation, InstallationToken
from ghrunner_vm.github.scope import Kind, Scope
from ghrunner_vm.github.signing import sign, signer
from ghrunner_vm.github.transport import Answer, Transport

_REFRESH_SECONDS = 5 * 60
DRIFT_SECONDS = 30
"""A difference between two clocks that needs no word."""
SET_CLOCK = "Set the clock, for example with timedatectl set-ntp true."
UNSUSPEND = "An owner must unsuspend it in the settings of its installation."
_FAREWELL_SECONDS = 1.0
_PROOF_SECONDS = 5 * 60
"""How long what we signed is shown again; it is good for eight minutes."""


class Auth(Protocol):
    """Where the client gets its bearer token from."""

    def bearer(self, transport: Transport, scope: Scope) -> SecretStr:
        """A token with some life left. Raises PermanentError or InfrastructureError."""

    def app(self, transport: Transport, scope: Scope) -> App | None:
        """The App that we are; None for a person's token. Raises as `bearer` does."""

    def installation(self, transport: Transport, scope: Scope) -> Installation | None:
        """Where the App is installed, suspended or not; None for a person's token. Raises as `bearer` does."""

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
            resolution = "Give the token alone, in GHVM_GITHUB_TOKEN or in the unit's file: no spaces, one line."
            raise UsageError("the GitHub token holds characters that no token has", resolution=resolution)
        self._token = SecretStr(text)

    def bearer(self, transport: Transport, scope: Scope) -> SecretStr:  # noqa: ARG002 the interface of Auth
        """The token."""
        return self._token

    def app(self, transport: Transport, scope: Scope) -> App | None:  # noqa: ARG002 the interface of Auth
        """A person is no App."""
        return None

    def installation(self, transport: Transport, scope: Scope) -> Installation | None:  # noqa: ARG002 as above
        """A person is not installed."""
        return None

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
        self._proof: tuple[SecretStr, float] | None = None

    def bearer(self, transport: Transport, scope: Scope) -> SecretStr:
        """The installation token, renewed when less than five minutes of its hour are left.

        Raises PermanentError for a private key that is no RSA key, too.
        """
        with self._lock:
            if self._issued is None or self._issued.expires_at - transport.clock.wall() < _REFRESH_SECONDS:
                self._issued = self._issue(transport, scope)
            return self._issued.token

    def app(self, transport: Transport, scope: Scope) -> App | None:
        """`GET /app`."""
        with self._lock:
            answer = transport.send("GET", "/app", bearer=self._signed(transport.clock.wall()))
        if answer.status != 200:
            raise self._refused(answer, transport, scope, "ask which App this is")
        return answer.parse(App)

    def installation(self, transport: Transport, scope: Scope) -> Installation | None:
        """`GET …/installation`."""
        with self._lock:
            return self._installation(transport, scope)

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
        installation = self._installation(transport, scope)
        _check(installation, scope)
        body: dict[str, object] = {"permissions": {permission(scope): "write"}}
        if scope.kind is Kind.REPO:
            body["repositories"] = [scope.name.partition("/")[2]]
        path = f"/app/installations/{installation.id}/access_tokens"
        answer = transport.send("POST", path, bearer=self._signed(transport.clock.wall()), body=body)
        if answer.status != 201:
            raise self._refused(answer, transport, scope, "get an installation token")
        issued = answer.parse(InstallationToken)
        return _Issued(issued.token, issued.expires_at.timestamp())

    def _installation(self, transport: Transport, scope: Scope) -> Installation:
        permission(scope)  # else there is none to look for
        answer = transport.send("GET", f"{scope.path}/installation", bearer=self._signed(transport.clock.wall()))
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
        return answer.parse(Installation)

    def _signed(self, now: float) -> SecretStr:
        """What proves that we are the App, signed anew after five minutes."""
        if self._proof is not None and 0 <= now - self._proof[1] < _PROOF_SECONDS:
            return self._proof[0]
        ready, self._ready = self._ready, None
        with signer() if ready is None else contextlib.nullcontext(ready) as program:
            proof = SecretStr(sign(program, self._client_id, self._key.get_secret_value(), now))
        self._proof = (proof, now)
        return proof

    def _refused(self, answer: Answer, transport: Transport, scope: Scope, doing: str) -> GhvmError:
        if answer.status != 401:
            return refused(answer, scope, doing)
        drift = transport.clock.wall() - answer.date if answer.date is not None else 0
        if abs(drift) <= DRIFT_SECONDS:
            resolution = "Check that the client ID and the private key belong to the same App."
            return PermanentError("GitHub does not accept the App's key", details=answer.details, resolution=resolution)
        brief = f"this host's clock is {drift_words(drift)} GitHub's, which refuses the App for it"
        return PermanentError(brief, details=answer.details, resolution=SET_CLOCK)


def drift_words(drift: float) -> str:
    """`7 minutes ahead of` or `20 minutes behind`, for a clock that is `drift` seconds ahead."""
    return f"{_roughly(abs(drift))} {'ahead of' if drift > 0 else 'behind'}"


def _roughly(seconds: float) -> str:
    for size, unit in ((86_400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{round(seconds / size)} {unit}"
    return f"{round(seconds)} seconds"


def _check(installation: Installation, scope: Scope) -> None:
    needed = permission(scope)
    if installation.suspended_at is not None:
        details = f"since {installation.suspended_at:%Y-%m-%d %H:%M %Z}"
        raise PermanentError(f"the App's installation on {scope} is suspended", details=details, resolution=UNSUSPEND)
    if installation.permissions.get(needed) != "write":
        raise PermanentError(f"the App may not manage the runners of {scope}", resolution=grant(needed))


def grant(needed: str) -> str:
    """What to do about a permission that is missing."""
    return f'Grant the App "{needed}: write", and accept the change in its installation.'


def permission(scope: Scope) -> str:
    """What an App must be granted, at the level `write`. Raises PermanentError for an enterprise."""
    if scope.kind is Kind.ENTERPRISE:
        resolution = "Set GHVM_GITHUB_TOKEN to a classic token with manage_runners:enterprise."
        raise PermanentError("GitHub lets no App manage an enterprise's runners", resolution=resolution)
    return PERMISSIONS[scope.kind]
