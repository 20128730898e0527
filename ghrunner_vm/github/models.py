"""GitHub's JSON, as far as ghvm reads it. Unknown keys are ignored: GitHub adds some at any time."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, SecretStr


def _one_word(secret: SecretStr) -> SecretStr:
    """It travels in a header or on a line of its own, and an HTTP library would print a bad one in its error."""
    text = secret.get_secret_value()
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("must be one word of ASCII")
    return secret


Secret = Annotated[SecretStr, AfterValidator(_one_word)]


class _Lenient(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


class RunnerLabel(_Lenient):
    """`runner-label` of GitHub's OpenAPI description."""

    name: str


class Runner(_Lenient):
    """`runner` of GitHub's OpenAPI description. `status` is `online` or `offline`; `os` is `unknown` at first."""

    id: int = Field(ge=1)
    name: str
    os: str
    status: str
    busy: bool
    labels: tuple[RunnerLabel, ...] = ()
    version: str | None = None


class RunnerList(_Lenient):
    """The answer of `GET …/actions/runners`."""

    total_count: int = Field(ge=0)
    runners: tuple[Runner, ...]


class JitConfigAnswer(_Lenient):
    """The answer of `POST …/actions/runners/generate-jitconfig`; the configuration is shown this once."""

    runner: Runner
    encoded_jit_config: Secret


class Installation(_Lenient):
    """The answer of `GET …/installation`: the App as installed, with the permissions it was granted."""

    id: int = Field(ge=1)
    permissions: dict[str, str] = Field(default_factory=dict)
    suspended_at: AwareDatetime | None = None
    html_url: str | None = None


class InstallationToken(_Lenient):
    """The answer of `POST /app/installations/{id}/access_tokens`. The token has no form to rely on."""

    token: Secret
    expires_at: AwareDatetime


class Problem(_Lenient):
    """`basic-error` of GitHub's OpenAPI description."""

    message: str = ""


@dataclass(frozen=True)
class JitConfig:
    """A single-use registration. `encoded` is the secret that starts the runner."""

    runner_id: int
    name: str
    encoded: SecretStr = field(repr=False)


class Presence(Enum):
    """Where GitHub sees a runner. GONE is confirmed, never guessed."""

    ONLINE = "online"
    OFFLINE = "offline"
    GONE = "gone"


@dataclass(frozen=True)
class Sight:
    """What GitHub says of a runner; `busy` is known to lag, and to be wrong at times."""

    presence: Presence
    busy: bool = False


class Removal(Enum):
    """What became of a wish to deregister a runner."""

    REMOVED = "removed"
    BUSY = "busy"
    GONE = "gone"
