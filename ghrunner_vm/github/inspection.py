"""What GitHub says of us, asked without changing anything: one finding after the other, as they are made."""

from collections.abc import Iterator, Mapping

from ghrunner_vm import runs
from ghrunner_vm.finding import Finding, failed, ok, warning
from ghrunner_vm.github.auth import DRIFT_SECONDS, SET_CLOCK, UNSUSPEND, drift_words, grant, permission
from ghrunner_vm.github.client import GitHub
from ghrunner_vm.github.models import Installation, RateLimit, RepositoryList, RunnerGroup
from ghrunner_vm.github.scope import Kind, Scope

_LIMITS = ("core", "actions_runner_registration")
_NAMED = 10
"""How many repositories of a group are named."""


def inspect(github: GitHub, group_id: int) -> Iterator[Finding]:
    """Ask who we are, what we may do, about the rate limit and the runner group.

    Raises GhvmError at the first thing that keeps runners from being registered; what was found is told before.
    """
    yield _identity(github)
    if (installation := github.installation()) is not None:
        yield _installation(installation)
        yield _permission(installation, github.scope)
    yield _budget(github.rate_limits())
    yield _group(github, group_id)


def access(github: GitHub) -> Finding:
    """Whether runners may be listed: of a token GitHub tells no more unless it registers one. Raises GhvmError."""
    github.runner_named(runs.new_id("ghvm-access"))
    if github.app() is None:
        words = f"may list the runners of {github.scope}; `ghvm token` shows whether it may register any"
    else:
        words = f"may register runners for {github.scope}"
    return ok("access", words)


def clock(drift: float) -> Finding:
    """How far this host's clock is from GitHub's, in seconds."""
    facts = {"ahead-seconds": round(drift)}
    if abs(drift) <= DRIFT_SECONDS:
        return ok("clock", f"this host's agrees with GitHub's within {DRIFT_SECONDS} seconds", facts)
    return warning("clock", f"this host's is {drift_words(drift)} GitHub's", SET_CLOCK, facts)


def _identity(github: GitHub) -> Finding:
    app = github.app()
    if app is None:
        return ok("identity", "a token, not an App", {"kind": "token"})
    facts = {"kind": "app", "app-id": app.id, "app-name": app.name, "app-slug": app.slug}
    return ok("identity", f"the GitHub App {app.name}, number {app.id}", facts)


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
        return failed("installation", f"{words}, suspended since {since:%Y-%m-%d %H:%M %Z}", UNSUSPEND, facts)
    return ok("installation", f"{words}, for {installation.repository_selection or 'some'} repositories", facts)


def _permission(installation: Installation, scope: Scope) -> Finding:
    needed = permission(scope)
    granted = installation.permissions.get(needed)
    facts = {"name": needed, "granted": granted, "needed": "write"}
    if granted == "write":
        return ok("permission", f"{needed}: write, as it must be", facts)
    return failed("permission", f"{needed}: {granted or 'nothing'}, but it must be write", grant(needed), facts)


def _budget(limits: Mapping[str, RateLimit]) -> Finding:
    known = {name: limits[name] for name in _LIMITS if name in limits}
    facts = {
        name: {"limit": one.limit, "remaining": one.remaining, "resets-at": one.reset} for name, one in known.items()
    }
    if not known:
        return ok("budget", "no rate limit is in force", {"limits": facts})
    scarce = any(one.remaining * 10 < one.limit for one in known.values())
    words = "; ".join(f"{name}: {one.remaining} of {one.limit} requests left" for name, one in known.items())
    if scarce:
        advice = "Something else spends it as well. Raise --poll-seconds, or wait."
        return warning("budget", words, advice, {"limits": facts})
    return ok("budget", words, {"limits": facts})


def _group(github: GitHub, group_id: int) -> Finding:
    group = github.group(group_id)
    if group is None:
        return ok("group", "a repository has no runner groups")
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
    words = f"number {group.id}, {group.name}, {_for_whom(group, listed)}"
    if listed is not None and listed.total_count == 0:
        return warning("group", words, "Choose repositories that may use it, on the group's page.", facts)
    return ok("group", words, facts)


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
