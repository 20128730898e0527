"""Accounts and repositories as GitHub's API shows them, made up from their names."""

import hashlib

from ghrunner_vm.simulator.identity import AccountKind

CREATED = "2026-01-01T00:00:00Z"
_LINKS = (
    "archive assignees blobs branches collaborators comments commits compare contents contributors deployments"
    " downloads events forks git_commits git_refs git_tags hooks issue_comment issue_events issues keys labels"
    " languages merges milestones notifications pulls releases stargazers statuses subscribers subscription tags"
    " teams trees"
)


def account(name: str, kind: AccountKind) -> dict[str, object]:
    """`simple-user`, or `enterprise`."""
    if kind == "Enterprise":
        return _enterprise(name)
    api = f"https://api.github.com/users/{name}"
    links = {"followers", "subscriptions", "organizations", "repos", "received_events"}
    patterns = {
        "following": "{/other_user}",
        "gists": "{/gist_id}",
        "starred": "{/owner}{/repo}",
        "events": "{/privacy}",
    }
    return {
        "login": name,
        "id": number(name),
        "node_id": node_id("account", number(name)),
        "avatar_url": f"https://avatars.githubusercontent.com/u/{number(name)}",
        "gravatar_id": "",
        "url": api,
        "html_url": f"https://github.com/{name}",
        **{f"{link}_url": f"{api}/{link}" for link in sorted(links)},
        **{f"{link}_url": f"{api}/{link}{pattern}" for link, pattern in patterns.items()},
        "type": kind,
        "site_admin": False,
    }


def _enterprise(name: str) -> dict[str, object]:
    return {
        "id": number(name),
        "node_id": node_id("enterprise", number(name)),
        "name": name,
        "slug": name,
        "html_url": f"https://github.com/enterprises/{name}",
        "avatar_url": f"https://avatars.githubusercontent.com/b/{number(name)}",
        "description": None,
        "website_url": None,
        "created_at": CREATED,
        "updated_at": CREATED,
    }


def number(name: str) -> int:
    """A stable made-up id for an account."""
    return int.from_bytes(hashlib.sha256(name.lower().encode()).digest()[:4], "big")


def node_id(kind: str, number: int) -> str:
    """The id of something in GitHub's GraphQL API."""
    return f"SIM_{kind}_{number}"


def repository(full_name: str) -> dict[str, object]:
    """`minimal-repository` for an OWNER/NAME of an organization."""
    owner, _, name = full_name.partition("/")
    api = f"https://api.github.com/repos/{full_name}"
    return {
        "id": number(full_name),
        "node_id": node_id("repository", number(full_name)),
        "name": name,
        "full_name": full_name,
        "owner": account(owner, "Organization"),
        "private": True,
        "html_url": f"https://github.com/{full_name}",
        "description": None,
        "fork": False,
        "url": api,
        **{f"{link}_url": f"{api}/{link.replace('_', '/')}" for link in _LINKS.split()},
    }
