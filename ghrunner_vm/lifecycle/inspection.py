"""What GitHub says of us: one finding after the other, as they are made."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ghrunner_vm.errors import GhvmError
from ghrunner_vm.github.auth import DRIFT_SECONDS, drift_words, permission
from ghrunner_vm.github.client import GitHub
from ghrunner_vm.github.jitconfig import ConfigFile, decode
from ghrunner_vm.github.models import Installation, JitConfig, RateLimit, RepositoryList, RunnerGroup
from ghrunner_vm.github.scope import Kind, Scope
from ghrunner_vm.lifecycle import trial
from ghrunner_vm.lifecycle.trial import Wish

_LIMITS = ("core", "actions_runner_registration")
_NAMED = 10
"""How many repositories of a group are named."""


@dataclass(frozen=True)
class Finding:
    """One thing that GitHub said, in words and as facts for a machine, by kebab-case keys."""

    topic: str
    words: str
    state: Literal["ok", "warning", "failed"] = "ok"
    facts: Mapping[str, object] = field(default_factory=dict)
    details: Sequence[str] = ()
    """Further lines for a person."""


Tell = Callable[[Finding], None]


def examine(
    github: GitHub,
    directory: Path,
    wish: Wish,
    tell: Tell,
    trouble: Callable[[GhvmError], None],
    raw: Callable[[str], None] | None = None,
) -> None:
    """All that GitHub says, a registration included, which is recorded under `directory`. See `trial.register`.

    `raw` takes the JIT config as it is, which is then not looked into.
    """

    def look(made: JitConfig) -> None:
        tell(_registration(made, wish))
        encoded = made.encoded.get_secret_value()
        if raw is None:
            tell(_configuration(encoded))
        else:
            raw(encoded)

    inspect(github, wish.group_id, tell)
    name = trial.register(github, directory, wish, look, trouble)
    tell(_kept(name) if wish.keep else Finding("deletion", f"{name} is deleted", facts={"name": name}))


def inspect(github: GitHub, group_id: int, tell: Tell) -> None:
    """Ask who we are, what we may do, about the runner group and the rate limit. Nothing is changed.

    Raises GhvmError at the first thing that keeps runners from being registered; what was found is told before.
    """
    try:
        tell(_identity(github))
        if (installation := github.installation()) is not None:
            tell(_installation(installation))
            tell(_permission(installation, github.scope))
        tell(_budget(github.rate_limits()))
        tell(_group(github, group_id))
    finally:
        if github.drift is not None:
            tell(_clock(github.drift))


def _identity(github: GitHub) -> Finding:
    app = github.app()
    if app is None:
        return Finding("identity", "a token, not an App", facts={"kind": "token"})
    facts = {"kind": "app", "app-id": app.id, "app-name": app.name, "app-slug": app.slug}
    return Finding("identity", f"the GitHub App {app.name}, number {app.id}", facts=facts)


def _installation(installation: Installation) -> Finding:
    account = None if installation.account is None else installation.account.login or installation.account.slug
    since = installation.suspended_at
    facts = {
        "id": installation.id,
        "account": account,
        "account-type": installation.target_type,
        "repository-selection": installation.repository_selection,
        "suspended-at": None if since is None else since.timestamp(),
    }
    words = f"number {installation.id} on {account or 'an account without a name'}"
    if since is not None:
        return Finding("installation", f"{words}, suspended since {since:%Y-%m-%d %H:%M %Z}", "failed", facts)
    return Finding(
        "installation", f"{words}, for {installation.repository_selection or 'some'} repositories", "ok", facts
    )


def _permission(installation: Installation, scope: Scope) -> Finding:
    needed = permission(scope)
    granted = installation.permissions.get(needed)
    facts = {"name": needed, "granted": granted, "needed": "write"}
    if granted == "write":
        return Finding("permission", f"{needed}: write, as it must be", "ok", facts)
    return Finding("permission", f"{needed}: {granted or 'nothing'}, but it must be write", "failed", facts)


def _budget(limits: Mapping[str, RateLimit]) -> Finding:
    known = {name: limits[name] for name in _LIMITS if name in limits}
    facts = {
        name: {"limit": one.limit, "remaining": one.remaining, "resets-at": one.reset} for name, one in known.items()
    }
    if not known:
        return Finding("budget", "no rate limit is in force", "ok", {"limits": facts})
    scarce = any(one.remaining * 10 < one.limit for one in known.values())
    words = "; ".join(f"{name}: {one.remaining} of {one.limit} requests left" for name, one in known.items())
    return Finding("budget", words, "warning" if scarce else "ok", {"limits": facts})


def _group(github: GitHub, group_id: int) -> Finding:
    group = github.group(group_id)
    if group is None:
        return Finding("group", "a repository has no runner groups")
    few = group.visibility == "selected" and github.scope.kind is Kind.ORG
    listed = github.group_repositories(group_id) if few else None
    facts = {
        "id": group.id,
        "name": group.name,
        "visibility": group.visibility,
        "allows-public-repositories": group.allows_public_repositories,
        "workflows": list(group.selected_workflows) if group.restricted_to_workflows else None,
        "repositories": None if listed is None else [one.full_name for one in listed.repositories],
        "repositories-count": None if listed is None else listed.total_count,
    }
    useless = listed is not None and listed.total_count == 0
    words = f"number {group.id}, {group.name}, {_for_whom(group, listed)}"
    return Finding("group", words, "warning" if useless else "ok", facts)


def _for_whom(group: RunnerGroup, listed: RepositoryList | None) -> str:
    if listed is None:
        words = f"visible to {group.visibility}"
    elif not listed.repositories:
        words = "visible to no repository"
    else:
        more = ", …" if listed.total_count > _NAMED else ""
        words = f"visible to {', '.join(one.full_name for one in listed.repositories[:_NAMED])}{more}"
    public = "public repositories included" if group.allows_public_repositories else "no public repositories"
    workflows = f", only for {', '.join(group.selected_workflows)}" if group.restricted_to_workflows else ""
    return f"{words}, {public}{workflows}"


def _registration(made: JitConfig, wish: Wish) -> Finding:
    facts = {"id": made.runner_id, "name": made.name, "labels": list(made.labels)}
    words = f"{made.name} is runner {made.runner_id} with the labels {', '.join(made.labels)}"
    same = {label.casefold() for label in made.labels} == {label.casefold() for label in wish.labels}
    if same:
        return Finding("registration", words, "ok", facts)
    return Finding("registration", f"{words}, asked for were {', '.join(wish.labels)}", "warning", facts)


def _configuration(encoded: str) -> Finding:
    files = decode(encoded)
    facts = {
        file.name: {
            "shown": {entry.key: entry.value for entry in file.entries if entry.value is not None},
            "hidden": [entry.key for entry in file.entries if entry.value is None],
        }
        for file in files
    }
    words = f"{len(encoded)} characters, without the secrets:"
    details = [line for file in files for line in _lines(file)]
    return Finding("configuration", words, "ok", {"characters": len(encoded), "files": facts}, details)


def _lines(file: ConfigFile) -> list[str]:
    shown = [f"  {entry.key}: {entry.value}".rstrip() for entry in file.entries if entry.value is not None]
    hidden = [entry.key for entry in file.entries if entry.value is None]
    return [file.name, *shown, *([f"  hidden: {', '.join(hidden)}"] if hidden else [])]


def _kept(name: str) -> Finding:
    words = (
        f"{name} stays registered, and whoever has its configuration can run its job. GitHub may refuse the"
        f" configuration after minutes, and removes a runner that was not started within a day. To delete it before:"
        f" ghvm runners prune --name {name}"
    )
    return Finding("deletion", words, "warning", {"name": name})


def _clock(drift: float) -> Finding:
    facts = {"ahead-seconds": round(drift)}
    if abs(drift) <= DRIFT_SECONDS:
        return Finding("clock", f"this host's agrees with GitHub's within {DRIFT_SECONDS} seconds", facts=facts)
    return Finding("clock", f"this host's is {drift_words(drift)} GitHub's", "warning", facts)
