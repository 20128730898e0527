"""Who may ask: the App, its installations, their tokens, and a person's token."""

import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from jwt.types import Options

from ghrunner_vm.clock import Clock
from ghrunner_vm.simulator.model import NotFound, timestamp

AccountKind = Literal["Organization", "User", "Enterprise"]
LEVELS = {"read": 1, "write": 2, "admin": 3}
TOKEN_SECONDS = 3600
JWT_SECONDS = 600
GRANTED = {
    "actions": "read",
    "administration": "write",
    "metadata": "read",
    "organization_self_hosted_runners": "write",
}


class BadCredentials(Exception):
    """The Authorization header is not accepted (401); the text is GitHub's kind of message."""


class TooMuchAsked(Exception):
    """A token was asked to have permissions that the installation does not have (422)."""


class Suspended(Exception):
    """The installation is suspended (403)."""


@dataclass(frozen=True)
class Installation:
    """The App as installed on one account."""

    id: int
    account: str
    kind: AccountKind
    permissions: Mapping[str, str]
    created_at: str
    suspended_at: str | None = None


@dataclass(frozen=True)
class Token:
    """An installation token; `expires_at` is seconds since 1970."""

    text: str = field(repr=False)
    installation_id: int
    permissions: Mapping[str, str]
    expires_at: float


@dataclass(frozen=True)
class Principal:
    """Who sent a request. `bucket` names the rate limit that it counts against."""

    kind: Literal["anonymous", "app", "installation", "person"]
    bucket: str
    account: str | None = None
    permissions: Mapping[str, str] = field(default_factory=dict)
    token: str = field(default="", repr=False)

    def may(self, permission: str, level: str) -> bool:
        """Whether an installation token holds a permission at a level."""
        return LEVELS.get(self.permissions.get(permission, ""), 0) >= LEVELS[level]


class Identity:
    """The App's key, its installations and all tokens. Safe to use from several threads.

    The App is installed on the organization, on the user `demo-user` and on the enterprise `demo-enterprise`;
    every repository of these accounts is taken to exist. `stateless_tokens` is the token format handed out when the
    request does not choose one. Tokens end `early_seconds` before the time that they are said to end.
    """

    def __init__(self, clock: Clock, org: str) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._tokens: dict[str, Token] = {}
        self._installations: dict[int, Installation] = {}
        self.stateless_tokens = False
        self.early_seconds = 0.0
        self.app_id = 1_000_001
        self.client_id = f"Iv23li{secrets.token_hex(7)}"
        self.personal_token = f"ghp_{secrets.token_hex(18)}"
        for account, kind in ((org, "Organization"), ("demo-user", "User"), ("demo-enterprise", "Enterprise")):
            self.install(account, kind)  # type: ignore[arg-type]  # the tuple's literals widen to str

    @property
    def private_key_pem(self) -> str:
        """The App's RSA key in PKCS#1 PEM, the form in which GitHub hands it out."""
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode()

    def install(
        self, account: str, kind: AccountKind, *, permissions: Mapping[str, str] = GRANTED, suspended: bool = False
    ) -> Installation:
        """Install the App on an account, or replace how it is installed there."""
        now = timestamp(self._clock.wall())
        with self._lock:
            old = self._find(account, kind)
            number = old.id if old else max(self._installations, default=0) + 1
            suspended_at = now if suspended else None
            installation = Installation(number, account, kind, dict(permissions), now, suspended_at)
            self._installations[number] = installation
        return installation

    def uninstall(self, account: str, kind: AccountKind) -> None:
        """Remove the App from an account. Raises NotFound."""
        number = self.installation(account, kind).id
        with self._lock:
            del self._installations[number]

    def installations(self) -> list[Installation]:
        """All installations, oldest first."""
        with self._lock:
            return list(self._installations.values())

    def installation(self, account: str, *kinds: AccountKind) -> Installation:
        """The installation on an account of one of these kinds. Raises NotFound."""
        with self._lock:
            found = self._find(account, *kinds)
        if found is None:
            raise NotFound
        return found

    def installation_by_id(self, number: int) -> Installation:
        """One installation. Raises NotFound."""
        with self._lock:
            if number not in self._installations:
                raise NotFound
            return self._installations[number]

    def grant(self, number: int, asked: Mapping[str, str] | None, *, stateless: bool) -> Token:
        """Make an installation token for an hour, with all granted permissions or only those asked for.

        Raises NotFound, Suspended, and TooMuchAsked for what was not granted.
        """
        installation = self.installation_by_id(number)
        if installation.suspended_at is not None:
            raise Suspended("This installation has been suspended")
        if asked:
            granted = Principal("installation", "", permissions=installation.permissions)
            if not all(level in LEVELS and granted.may(name, level) for name, level in asked.items()):
                raise TooMuchAsked("The permissions requested are not granted to this installation.")
        expires_at = self._clock.wall() + TOKEN_SECONDS
        text = self._stateless_token(expires_at) if stateless else f"ghs_{secrets.token_hex(18)}"
        token = Token(text, number, dict(asked or installation.permissions), expires_at)
        with self._lock:
            self._tokens[text] = token
        return token

    def tokens(self) -> list[Token]:
        """The installation tokens that were made and not revoked, oldest first."""
        with self._lock:
            return list(self._tokens.values())

    def expire_tokens(self) -> None:
        """End all installation tokens."""
        with self._lock:
            self._tokens.clear()

    def revoke(self, text: str) -> None:
        """End an installation token."""
        with self._lock:
            self._tokens.pop(text, None)

    def authenticate(self, header: str | None) -> Principal:
        """Who an Authorization header stands for. Raises BadCredentials."""
        if header is None:
            return Principal("anonymous", "anonymous")
        scheme, _, text = header.partition(" ")
        if scheme.lower() not in ("bearer", "token") or not text:
            raise BadCredentials("Bad credentials")
        if text == self.personal_token:
            return Principal("person", "person", token=text)
        if text.startswith("ghs_"):
            return self._installation_principal(text)
        if text.count(".") == 2:
            self._check_jwt(text)
            return Principal("app", "app", token=text)
        raise BadCredentials("Bad credentials")

    def _installation_principal(self, text: str) -> Principal:
        with self._lock:
            token = self._tokens.get(text)
            installation = self._installations.get(token.installation_id) if token else None
        if token is None or installation is None or self._clock.wall() >= token.expires_at - self.early_seconds:
            raise BadCredentials("Bad credentials")
        bucket = f"installation ID {installation.id}"
        return Principal("installation", bucket, installation.account.lower(), token.permissions, text)

    def _check_jwt(self, text: str) -> None:
        unchecked: Options = {"verify_exp": False, "verify_iat": False, "verify_nbf": False, "verify_aud": False}
        try:
            claims = jwt.decode(text, self._key.public_key(), algorithms=["RS256"], options=unchecked)
        except jwt.InvalidTokenError:
            raise BadCredentials("A JSON web token could not be decoded") from None
        if str(claims.get("iss")) not in (self.client_id, str(self.app_id)):
            raise BadCredentials("'Issuer' claim ('iss') must be the App's client ID or its numeric ID")
        self._check_times(claims.get("iat"), claims.get("exp"))

    def _check_times(self, issued: object, expires: object) -> None:
        now = self._clock.wall()
        if not isinstance(issued, int | float) or issued > now:
            raise BadCredentials(
                "'Issued at' claim ('iat') must be an Integer representing the time that the assertion was issued"
            )
        if not isinstance(expires, int | float) or expires <= now:
            raise BadCredentials(
                "'Expiration time' claim ('exp') must be a numeric value representing the future time at which "
                "the assertion expires"
            )
        if expires > now + JWT_SECONDS:
            raise BadCredentials("'Expiration time' claim ('exp') is too far in the future")

    def _stateless_token(self, expires_at: float) -> str:
        claims = {"exp": int(expires_at), "jti": secrets.token_hex(16)}
        return f"ghs_{self.app_id}_{jwt.encode(claims, self._key, algorithm='RS256')}"

    def _find(self, account: str, *kinds: AccountKind) -> Installation | None:
        for installation in self._installations.values():
            if installation.account.lower() == account.lower() and installation.kind in kinds:
                return installation
        return None
