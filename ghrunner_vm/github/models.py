"""GitHub's JSON, as far as ghvm reads it. Unknown keys are ignored: GitHub adds some at any time."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, RootModel, SecretStr


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

    @property
    def label_names(self) -> tuple[str, ...]:
        """What a job may ask for."""
        return tuple(label.name for label in self.labels)

    @property
    def online(self) -> bool:
        """Whether its listener is connected."""
        return self.status == "online"


class RunnerList(_Lenient):
    """The answer of `GET …/actions/runners`."""

    total_count: int = Field(ge=0)
    runners: tuple[Runner, ...]


class JitConfigAnswer(_Lenient):
    """The answer of `POST …/actions/runners/generate-jitconfig`; the configuration is shown this once."""

    runner: Runner
    encoded_jit_config: Secret


class RunnerDownload(_Lenient):
    """`runner-application` of GitHub's OpenAPI description: the runner that GitHub serves for one platform.

    `os` is `linux`, `osx` or `win`; `architecture` is `x64`, `arm64` or `arm`.
    """

    os: str
    architecture: str
    download_url: str
    filename: str
    sha256_checksum: str | None = None


class RunnerDownloads(RootModel[tuple[RunnerDownload, ...]]):
    """The answer of `GET …/actions/runners/downloads`."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)


class RunnerGroup(_Lenient):
    """`runner-groups-org` or `runner-groups-enterprise` of GitHub's OpenAPI description.

    `visibility` is `all`, `selected` or, in an organization, `private`.
    """

    id: int = Field(ge=1)
    name: str
    visibility: str
    allows_public_repositories: bool = False
    restricted_to_workflows: bool = False
    selected_workflows: tuple[str, ...] = ()


class Repository(_Lenient):
    """`minimal-repository` of GitHub's OpenAPI description; the name is OWNER/NAME."""

    full_name: str


class RepositoryList(_Lenient):
    """The answer of `GET …/runner-groups/{id}/repositories`."""

    total_count: int = Field(ge=0)
    repositories: tuple[Repository, ...]


class App(_Lenient):
    """The answer of `GET /app`."""

    id: int = Field(ge=1)
    name: str
    slug: str | None = None


class Account(_Lenient):
    """Where an App is installed: a user or an organization has a login, an enterprise a slug."""

    login: str | None = None
    slug: str | None = None


class Installation(_Lenient):
    """The answer of `GET …/installation`: the App as installed, with the permissions it was granted.

    `repository_selection` is `all` or `selected`, `target_type` is `Organization`, `User` or `Enterprise`.
    """

    id: int = Field(ge=1)
    account: Account | None = None
    target_type: str | None = None
    repository_selection: str | None = None
    permissions: dict[str, str] = Field(default_factory=dict)
    suspended_at: AwareDatetime | None = None
    html_url: str | None = None


class RateLimit(_Lenient):
    """One of GitHub's limits. `reset` is seconds since 1970 on its clock."""

    limit: int
    remaining: int
    reset: int


class RateLimits(_Lenient):
    """The answer of `GET /rate_limit`, by the name of what is limited."""

    resources: dict[str, RateLimit]


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
    labels: tuple[str, ...] = ()
    """The labels that GitHub gave it."""


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
