"""Runners of one organization, repository or enterprise, through GitHub's REST API."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Self

from pydantic import SecretStr

from ghrunner_vm.clock import SYSTEM, Clock
from ghrunner_vm.errors import InfrastructureError, UsageError
from ghrunner_vm.github.auth import Auth
from ghrunner_vm.github.faults import LostResponse, PermissionLost, no_group, refused, taken
from ghrunner_vm.github.limits import Allowance, Budget
from ghrunner_vm.github.models import (
    App,
    Installation,
    JitConfig,
    JitConfigAnswer,
    Presence,
    RateLimit,
    RateLimits,
    Removal,
    RepositoryList,
    Runner,
    RunnerDownload,
    RunnerDownloads,
    RunnerGroup,
    RunnerList,
    Sight,
)
from ghrunner_vm.github.scope import Kind, Scope
from ghrunner_vm.github.transport import TRIES, Answer, Method, Timeouts, Transport, Unreachable

DEFAULT_GROUP = 1
"""The number of the runner group that every organization and enterprise has; a repository has no other."""

PAGE = 100
"""How many items GitHub gives at most in one answer."""
_MOST_PAGES = 1000
_CHANGED_RESOLUTION = "Check the App's installation, its permissions and the token."


class GitHub:
    """A client for one scope. As a context manager it revokes the installation token it made when it ends.

    Every call may raise PermanentError, RateLimited (with `retry_after` seconds) and Unreachable. All calls block,
    with deadlines, and may be made from several threads.
    """

    def __init__(
        self,
        api_url: str,
        scope: Scope,
        auth: Auth,
        *,
        clock: Clock = SYSTEM,
        timeouts: Timeouts | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        """`warn` hears when the rate limit is nearly used up, from whatever thread sees it."""
        self.scope = scope
        self._auth = auth
        self._allowance = Allowance(clock, warn)
        self._transport = Transport(api_url, clock=clock, timeouts=timeouts, allowance=self._allowance)
        brief = Timeouts(connect=3, read=3, total=5)
        self._farewell = Transport(api_url, clock=clock, timeouts=brief, allowance=self._allowance)
        self._lock = threading.Lock()
        self._seen: dict[int, tuple[str, Sight]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._auth.revoke(self._farewell)

    @property
    def api_url(self) -> str:
        """The API's URL without a trailing slash."""
        return self._transport.url

    @property
    def requests_made(self) -> int:
        """How many requests counted against the rate limit so far."""
        return self._allowance.requests_made

    @property
    def budget(self) -> Budget | None:
        """The rate limit as the last answer told it."""
        return self._allowance.budget

    @property
    def drift(self) -> float | None:
        """By how many seconds this host's clock is ahead of GitHub's, as the last answer told it."""
        return self._transport.drift

    def app(self) -> App | None:
        """The GitHub App that we are; None with a token."""
        return self._auth.app(self._transport, self.scope)

    def installation(self) -> Installation | None:
        """The App's installation on the scope, suspended or not; None with a token."""
        return self._auth.installation(self._transport, self.scope)

    def rate_limits(self) -> Mapping[str, RateLimit]:
        """`GET /rate_limit`, which is free: what is left of each limit. Nothing where none is in force."""
        answer = self._send("GET", "/rate_limit")
        if answer.status == 404:  # GitHub Enterprise Server, unless its administrator wants limits
            return {}
        if answer.status != 200:
            raise refused(answer, self.scope, "look at the rate limit")
        return answer.parse(RateLimits).resources

    def check(self, name: str, group_id: int) -> None:
        """Ask all that can be asked before a machine boots: credentials, permission, a name's freedom, the group.

        Raises NameTaken, and UsageError for a group of a repository.
        """
        if self.runner_named(name) is not None:
            raise taken(name)
        if group_id != DEFAULT_GROUP:
            self.group(group_id)

    def group(self, group_id: int) -> RunnerGroup | None:
        """`GET …/actions/runner-groups/{id}`; None for the only group of a repository, which has no page.

        Raises PermanentError when there is none, and UsageError for any other group of a repository.
        """
        if self.scope.kind is Kind.REPO:
            if group_id == DEFAULT_GROUP:
                return None
            raise UsageError("a repository has no runner groups", resolution="Leave --runner-group-id out.")
        answer = self._send("GET", self._group(group_id))
        if answer.status == 404:
            raise no_group(answer, self.scope, group_id)
        if answer.status != 200:
            raise refused(answer, self.scope, f"look at runner group {group_id}")
        return answer.parse(RunnerGroup)

    def group_repositories(self, group_id: int) -> RepositoryList:
        """`GET …/actions/runner-groups/{id}/repositories`: the first hundred of an organization's group."""
        answer = self._send("GET", f"{self._group(group_id)}/repositories", params={"per_page": str(PAGE)})
        if answer.status != 200:
            raise refused(answer, self.scope, f"list the repositories of runner group {group_id}")
        return answer.parse(RepositoryList)

    def generate_jitconfig(
        self, name: str, *, group_id: int, labels: Sequence[str], work_folder: str = "_work"
    ) -> JitConfig:
        """`POST …/actions/runners/generate-jitconfig`, once: GitHub adds no labels and shows the answer once.

        Raises NameTaken, and LostResponse when the runner may be registered although no configuration came.
        """
        body = {"name": name, "runner_group_id": group_id, "labels": list(labels), "work_folder": work_folder}
        self._auth.bearer(self._transport, self.scope)  # a token that cannot be had is no lost answer
        try:
            answer = self._send("POST", f"{self._runners}/generate-jitconfig", body=body, tries=1)
            made = answer.parse(JitConfigAnswer) if answer.status == 201 else None
        except Unreachable as error:
            resolution = "Run it again: a new run has a new name. What GitHub made of this one, the run or gc deletes."
            brief = f"GitHub's answer to the registration of {name} was lost"
            raise LostResponse(brief, details=error.details, resolution=resolution) from error
        if made is not None:
            return JitConfig(made.runner.id, made.runner.name, made.encoded_jit_config, made.runner.label_names)
        if answer.status == 409:
            raise taken(name, answer)
        if answer.status == 404:
            raise no_group(answer, self.scope, group_id)
        raise refused(answer, self.scope, f"register the runner {name}")

    def runner(self, runner_id: int) -> Runner | None:
        """`GET …/actions/runners/{id}`. None is a 404, which a lost permission gives as well: see `sight`."""
        answer = self._send("GET", f"{self._runners}/{runner_id}")
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise refused(answer, self.scope, f"look at runner {runner_id}")
        return answer.parse(Runner)

    def runner_named(self, name: str) -> Runner | None:
        """`GET …/actions/runners?name=`: the runner of exactly this name."""
        answer = self._list(name)
        if answer.status != 200:
            raise refused(answer, self.scope, "list the runners")
        return _named(answer.parse(RunnerList), name)

    def runners(self) -> Iterator[Runner]:
        """`GET …/actions/runners`, page by page: each runner once, unless one that is removed meanwhile shifts it away.

        Raises InfrastructureError for a list that never ends.
        """
        seen: set[int] = set()
        for page in range(1, _MOST_PAGES + 1):
            answer = self._send("GET", self._runners, params={"per_page": str(PAGE), "page": str(page)})
            if answer.status != 200:
                raise refused(answer, self.scope, "list the runners")
            listed = answer.parse(RunnerList)
            yield from (runner for runner in listed.runners if runner.id not in seen)
            seen.update(runner.id for runner in listed.runners)
            if not listed.runners or page * PAGE >= listed.total_count:
                return
        brief = f"GitHub lists more than {_MOST_PAGES * PAGE} runners for {self.scope}"
        raise InfrastructureError(brief, resolution="Remove runners in its settings.")

    def downloads(self) -> tuple[RunnerDownload, ...]:
        """`GET …/actions/runners/downloads`: the version of the runner that GitHub serves now, for each platform."""
        answer = self._send("GET", f"{self._runners}/downloads")
        if answer.status != 200:
            raise refused(answer, self.scope, "list the downloads of the runner")
        return answer.parse(RunnerDownloads).root

    def sight(self, runner_id: int, name: str) -> Sight:
        """How GitHub sees a runner; free of charge (304) while nothing changes.

        Raises PermissionLost when GitHub shows neither the runner nor a list without it.
        """
        with self._lock:
            etag, last = self._seen.get(runner_id, (None, None))
        answer = self._send("GET", f"{self._runners}/{runner_id}", etag=etag)
        if answer.status == 304 and last is not None:
            return last
        if answer.status == 404:
            return self._sight_after_404(runner_id, name)
        if answer.status != 200:
            raise refused(answer, self.scope, f"look at the runner {name}")
        sight = _sight(answer.parse(Runner))
        self._remember(runner_id, answer.headers.get("etag"), sight)
        return sight

    def remove(self, runner_id: int, name: str) -> Removal:
        """`DELETE …/actions/runners/{id}`: REMOVED (no job can reach it any more), BUSY (it has one) or GONE.

        Raises PermissionLost as `sight` does.
        """
        answer = self._send("DELETE", f"{self._runners}/{runner_id}")
        if answer.status == 422:
            return Removal.BUSY
        if answer.status == 204:
            self._remember(runner_id, None, None)
            return Removal.REMOVED
        if answer.status != 404:
            raise refused(answer, self.scope, f"remove the runner {name}")
        if self._sight_after_404(runner_id, name).presence is not Presence.GONE:
            raise Unreachable(f"GitHub lists the runner {name} but does not find it", details=answer.details)
        return Removal.GONE

    def _sight_after_404(self, runner_id: int, name: str) -> Sight:
        """A 404 means gone only if this token can still list, and the list by exact name is empty."""
        answer = self._list(name)
        if answer.status == 200:
            runners = answer.parse(RunnerList)
            listed = _named(runners, name)
            if listed is not None and listed.id == runner_id:
                return _sight(listed)
            if runners.total_count == 0:
                self._remember(runner_id, None, None)
                return Sight(Presence.GONE)
        brief = f"GitHub does not say what became of the runner {name}"
        raise PermissionLost(brief, details=answer.details, resolution=_CHANGED_RESOLUTION)

    def _list(self, name: str) -> Answer:
        return self._send("GET", self._runners, params={"name": name, "per_page": str(PAGE)})

    def _send(
        self,
        method: Method,
        path: str,
        *,
        body: Mapping[str, object] | None = None,
        params: Mapping[str, str] | None = None,
        etag: str | None = None,
        tries: int = TRIES,
    ) -> Answer:
        """A token that GitHub refuses is replaced once: a call that it refused had no effect."""

        def send(bearer: SecretStr) -> Answer:
            return self._transport.send(method, path, bearer=bearer, body=body, params=params, etag=etag, tries=tries)

        bearer = self._auth.bearer(self._transport, self.scope)
        answer = send(bearer)
        if answer.status == 401 and self._auth.renew(bearer):
            answer = send(self._auth.bearer(self._transport, self.scope))
        return answer

    def _remember(self, runner_id: int, etag: str | None, sight: Sight | None) -> None:
        with self._lock:
            self._seen.pop(runner_id, None)
            if etag and sight:
                self._seen[runner_id] = (etag, sight)

    def _group(self, group_id: int) -> str:
        return f"{self.scope.path}/actions/runner-groups/{group_id}"

    @property
    def _runners(self) -> str:
        return f"{self.scope.path}/actions/runners"


def _named(runners: RunnerList, name: str) -> Runner | None:
    return next((runner for runner in runners.runners if runner.name == name), None)


def _sight(runner: Runner) -> Sight:
    return Sight(Presence.ONLINE if runner.online else Presence.OFFLINE, runner.busy)
