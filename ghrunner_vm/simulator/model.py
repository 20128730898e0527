"""The things the simulator keeps, as frozen records, and why it refuses a request. No HTTP here."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

ScopeKind = Literal["orgs", "repos", "enterprises"]
JobStatus = Literal["queued", "in_progress", "completed"]
Conclusion = Literal["success", "failure", "cancelled"]


class Refused(Exception):
    """The request is understood and refused; the text is what GitHub would say."""


class NotFound(Refused):
    """No such runner, group, job or installation, or not visible."""

    def __init__(self) -> None:
        super().__init__("Not Found")


class NameTaken(Refused):
    """A runner of that name is registered in the scope."""

    def __init__(self, name: str) -> None:
        super().__init__(f"Already exists - A runner with the name {name} already exists.")


class StillBusy(Refused):
    """The runner has a job, so it cannot be removed."""

    def __init__(self, name: str) -> None:
        super().__init__(f'Bad request - Runner "{name}" is still running a job')


class GroupFull(Refused):
    """The runner group holds as many runners as GitHub allows."""

    def __init__(self, group_id: int, limit: int) -> None:
        super().__init__(f"Invalid Argument - Runner group {group_id} has reached max limit of {limit} runners.")


@dataclass(frozen=True)
class Scope:
    """Where runners are registered: an organization, a repository ("OWNER/NAME") or an enterprise."""

    kind: ScopeKind
    name: str

    @property
    def path(self) -> str:
        """The start of the scope's API paths, such as `/orgs/demo-org`."""
        return f"/{self.kind}/{self.name}"

    @property
    def owner(self) -> str:
        """The account that owns the scope, in lower case: GitHub's names do not differ by case."""
        return self.name.partition("/")[0].lower()

    @property
    def key(self) -> tuple[ScopeKind, str]:
        """What tells scopes apart."""
        return self.kind, self.name.lower()


@dataclass(frozen=True)
class Group:
    """A runner group of an organization or enterprise; with `repositories` (OWNER/NAME) it is for these only."""

    id: int
    name: str
    default: bool = False
    repositories: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Registration:
    """What `generate-jitconfig` asks for."""

    name: str
    group_id: int
    labels: tuple[str, ...]
    work_folder: str = "_work"


@dataclass(frozen=True)
class Runner:
    """A registered just-in-time runner. `bearer` is what its listener shows to the service."""

    id: int
    scope: Scope
    name: str
    group_id: int
    labels: tuple[str, ...]
    bearer: str = field(repr=False)
    os: str = "unknown"
    version: str | None = None
    online: bool = False
    busy: bool = False

    def can_run(self, wanted: tuple[str, ...]) -> bool:
        """Whether the runner has every label the job wants; case does not matter."""
        return {label.lower() for label in wanted} <= {label.lower() for label in self.labels}

    def is_current(self, minimum: str) -> bool:
        """Whether its listener has told a version that is not older than `minimum`."""
        return self.version is not None and _parts(self.version) >= _parts(minimum)


@dataclass(frozen=True)
class Job:
    """A job: shell text to run. `log` is append-only and shared by all copies; timestamps are ISO 8601 in UTC."""

    id: int
    name: str
    labels: tuple[str, ...]
    run: str
    created_at: str
    status: JobStatus = "queued"
    conclusion: Conclusion | None = None
    runner_id: int | None = None
    runner_name: str | None = None
    started_at: str | None = None
    completed_at: str | None = None
    log: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Conduct:
    """How the service behaves; the defaults are what its documents promise.

    `says_busy` is what the API tells of every runner's job, whatever is true. A runner that waits `idle_seconds` for a
    job loses its registration; with `ghosts` its listener is not told and waits on. With `repeats` the API answers
    409 to a registration that it has made, as it does when something on the way has sent the request twice. `config`
    is sent as every JIT config.
    """

    says_busy: bool | None = None
    idle_seconds: float | None = None
    ghosts: bool = False
    repeats: bool = False
    config: str | None = None


@dataclass(frozen=True)
class Message:
    """What the service tells a listener that asks what to do."""

    type: Literal["none", "job", "gone", "too-old"]
    job: Job | None = None


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())


def timestamp(seconds: float) -> str:
    """Seconds since 1970 as GitHub writes them: `2026-11-23T20:00:00Z`."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
