"""The ways in which GitHub is known to misbehave, by name. docs/troubles.md tells what ghvm makes of each."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ghrunner_vm.clock import Clock
from ghrunner_vm.errors import UsageError
from ghrunner_vm.simulator.faults import Faults, Rule
from ghrunner_vm.simulator.identity import GRANTED, TOKEN_SECONDS
from ghrunner_vm.simulator.model import Conduct
from ghrunner_vm.simulator.state import GROUP_LIMIT, MINIMUM_VERSION, State
from ghrunner_vm.suggest import did_you_mean

API = "/[!_]*"
"""All of GitHub's API, and not the service that listeners talk to."""
INSTALLATION = "*/installation"
JITCONFIG = "*/actions/runners/generate-jitconfig"

AHEAD_SECONDS = 7 * 60
BEHIND_SECONDS = 20 * 60
"""A JWT lasts for eight minutes: a clock that is less behind does no harm."""
TOKEN_LIFE_SECONDS = 3
IDLE_SECONDS = 1
LIMITED_SECONDS = 90


class DriftingClock:
    """A clock that can be set wrong: `seconds` is how far it is ahead of the one it is made from."""

    def __init__(self, right: Clock) -> None:
        self.seconds = 0.0
        self.clock = Clock(wall=lambda: right.wall() + self.seconds, monotonic=right.monotonic, sleep=right.sleep)


class Troubles:
    """Begins the troubles of the catalogue, and ends them all. Safe to use from several threads."""

    def __init__(self, state: State, faults: Faults, drift: DriftingClock) -> None:
        self.state = state
        self.faults = faults
        self.drift = drift

    def begin(self, name: str) -> None:
        """Misbehave from now on. Raises UsageError when there is no such trouble."""
        if name not in CATALOGUE:
            raise UsageError(f"there is no trouble {name[:100]!r}", resolution=did_you_mean(name, CATALOGUE))
        CATALOGUE[name].begin(self)

    def end(self) -> None:
        """Behave well again; rules that were added to `faults` end as well. Tokens that have expired stay so."""
        self.faults.clear()
        self.drift.seconds = 0
        self.state.conduct = Conduct()
        self.state.group_limit = GROUP_LIMIT
        self.state.minimum_version = MINIMUM_VERSION
        self.state.identity.early_seconds = 0
        self.state.identity.stateless_tokens = False
        self.state.identity.install(self.state.org, "Organization")


Begin = Callable[[Troubles], None]


@dataclass(frozen=True)
class Trouble:
    """One way to misbehave: a sentence about it, and how it begins."""

    about: str
    begin: Begin


def _rules(*rules: Rule) -> Begin:
    def begin(troubles: Troubles) -> None:
        for rule in rules:
            troubles.faults.add(rule)

    return begin


def _conduct(conduct: Conduct) -> Begin:
    def begin(troubles: Troubles) -> None:
        troubles.state.conduct = conduct

    return begin


def _drift(seconds: float) -> Begin:
    def begin(troubles: Troubles) -> None:
        troubles.drift.seconds = seconds

    return begin


def _installed(*, suspended: bool = False, permissions: Mapping[str, str] = GRANTED) -> Begin:
    def begin(troubles: Troubles) -> None:
        org = troubles.state.org
        troubles.state.identity.install(org, "Organization", permissions=permissions, suspended=suspended)

    return begin


def _uninstall(troubles: Troubles) -> None:
    troubles.state.identity.uninstall(troubles.state.org, "Organization")


def _expire(*, stateless: bool) -> Begin:
    def begin(troubles: Troubles) -> None:
        identity = troubles.state.identity
        identity.expire_tokens()
        identity.early_seconds = TOKEN_SECONDS - TOKEN_LIFE_SECONDS
        identity.stateless_tokens = stateless

    return begin


def _fill_groups(troubles: Troubles) -> None:
    troubles.state.group_limit = 0


def _outdate(troubles: Troubles) -> None:
    troubles.state.minimum_version = "99.0.0"


def _message(text: str) -> str:
    return json.dumps({"message": text, "documentation_url": "https://docs.github.com/rest"})


def _limit(status: int, kind: str, *, retry_after: bool) -> Trouble:
    def begin(troubles: Troubles) -> None:
        resets_at = int(troubles.state.clock.wall()) + LIMITED_SECONDS
        remaining, text = _LIMITS[kind]
        headers = {"x-ratelimit-limit": "5000", "x-ratelimit-remaining": remaining}
        headers |= {"x-ratelimit-reset": str(resets_at), "x-ratelimit-resource": "core"}
        headers |= {"retry-after": str(LIMITED_SECONDS)} if retry_after else {}
        troubles.faults.add(Rule(path=API, status=status, body=_message(text), headers=headers))

    form = f"{status} {'with' if retry_after else 'without'} retry-after"
    return Trouble(f"Every call meets the {kind} rate limit: a {form}.", begin)


_LIMITS = {
    "primary": ("0", "API rate limit exceeded for installation ID 1."),
    "secondary": ("4000", "You have exceeded a secondary rate limit. Please wait before you try again."),
}
_ERROR = Rule(path=API, status=503, body=_message("Service unavailable"))
_NO_GROUP = Rule(path="*/runner-groups/*", status=404, body=_message("Not Found"))
_STILL_BUSY = _message('Bad request - Runner "it" is still running a job')

CATALOGUE: Mapping[str, Trouble] = {
    "wrong-client-id": Trouble(
        "No App has the client ID.",
        _rules(Rule(path=INSTALLATION, status=404, body=_message("Integration not found"))),
    ),
    "bad-key": Trouble(
        "The private key is not the App's.",
        _rules(Rule(path=INSTALLATION, status=401, body=_message("A JSON web token could not be decoded"))),
    ),
    "host-clock-ahead": Trouble("This host's clock is 7 minutes ahead of GitHub's.", _drift(-AHEAD_SECONDS)),
    "host-clock-behind": Trouble("This host's clock is 20 minutes behind GitHub's.", _drift(BEHIND_SECONDS)),
    "not-installed": Trouble("The App is not installed in the organization.", _uninstall),
    "suspended": Trouble("The App's installation is suspended.", _installed(suspended=True)),
    "no-permission": Trouble("The App may not manage runners.", _installed(permissions={"metadata": "read"})),
    "unknown-group": Trouble(
        "The runner group does not exist.",
        _rules(_NO_GROUP, _NO_GROUP.model_copy(update={"path": JITCONFIG})),
    ),
    "name-clash": Trouble("A runner is registered and the answer is 409.", _conduct(Conduct(repeats=True))),
    "lost-response": Trouble(
        "A runner is registered and the connection is cut, once; the same name would then meet a 409.",
        _rules(Rule(method="POST", path=JITCONFIG, cut="after", count=1)),
    ),
    "group-full": Trouble("The runner group is full.", _fill_groups),
    "error-burst": Trouble(
        "The next three calls are answered with 503.", _rules(_ERROR.model_copy(update={"count": 3}))
    ),
    "outage": Trouble("Every call is answered with 503.", _rules(_ERROR)),
    "slow": Trouble("Every answer takes a second.", _rules(Rule(path=API, delay=1))),
    "hang": Trouble("No answer ever comes.", _rules(Rule(path=API, delay=600, cut="before"))),
    "garbage": Trouble("Every call is answered with a web page.", _rules(Rule(path=API, status=200, body="<html>"))),
    "cut": Trouble("Every connection is cut before its answer.", _rules(Rule(path=API, cut="before"))),
    "token-expires": Trouble(
        "Tokens of 40 characters are refused 3 seconds after they were made, those there are at once.",
        _expire(stateless=False),
    ),
    "stateless-token-expires": Trouble(
        "The same with tokens of the form ghs_APPID_JWT.",
        _expire(stateless=True),
    ),
    "idle-removed": Trouble(
        "A runner that gets no job within a second is removed by the service.",
        _conduct(Conduct(idle_seconds=IDLE_SECONDS)),
    ),
    "ghost": Trouble(
        "A runner that gets no job within a second is removed, and its listener waits on.",
        _conduct(Conduct(idle_seconds=IDLE_SECONDS, ghosts=True)),
    ),
    "says-busy": Trouble("GitHub says of every runner that it has a job.", _conduct(Conduct(says_busy=True))),
    "says-idle": Trouble("GitHub says of every runner that it has no job.", _conduct(Conduct(says_busy=False))),
    "removal-refused": Trouble(
        "No runner can be removed, as for minutes after a machine died in its job.",
        _rules(Rule(method="DELETE", path="*/actions/runners/*", status=422, body=_STILL_BUSY)),
    ),
    "outdated-runner": Trouble("Every version of the runner is too old to get a job.", _outdate),
} | {
    f"limit-{status}-{kind}{'-retry-after' if retry_after else ''}": _limit(status, kind, retry_after=retry_after)
    for status in (403, 429)
    for kind in _LIMITS
    for retry_after in (False, True)
}
