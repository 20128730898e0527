"""What GitHub's refusals mean for a person."""

from ghrunner_vm.errors import GhvmError, InfrastructureError, PermanentError
from ghrunner_vm.github.scope import Kind, Scope
from ghrunner_vm.github.transport import Answer

PERMISSIONS = {Kind.ORG: "organization_self_hosted_runners", Kind.REPO: "administration"}
"""The App permission (level write) that runners need; for enterprises there is none."""

_NEEDS = {
    Kind.ORG: 'the App\'s organization permission "Self-hosted runners" (write), or a token with admin:org',
    Kind.REPO: 'the App\'s repository permission "Administration" (write), or a token with repo',
    Kind.ENTERPRISE: "a classic token with manage_runners:enterprise",
}
_SENTENCES = {
    "self-hosted runners are disabled": "An owner must allow self-hosted runners for this repository.",
    "actions is disabled": "Enable GitHub Actions for this repository.",
    "ip address is not permitted": "Add this host's address to the organization's IP allow list.",
    "suspended": "An owner must unsuspend the App's installation.",
}


class PermissionLost(PermanentError):
    """GitHub hides what this token could see before; nothing may be concluded about the runner."""


class NameTaken(InfrastructureError):
    """A runner of this name is registered: perhaps by our own call, whose answer was lost. Use a new name."""


class LostResponse(InfrastructureError):
    """The registration may or may not exist. Look for the name, remove it, and never use it again."""


def taken(name: str, answer: Answer | None = None) -> NameTaken:
    """The error for a name that GitHub has."""
    details = None if answer is None else answer.details
    return NameTaken(
        f"a runner named {name} exists", details=details, resolution="Run it again: a new run has a new name."
    )


def no_group(answer: Answer, scope: Scope, group_id: int) -> PermanentError:
    """The error for a runner group that GitHub does not find."""
    resolution = (
        "Give --runner-group-id the number at the end of the group's page in the settings. GitHub says the same to"
        " a token that may not register runners any more."
    )
    return PermanentError(f"{scope} has no runner group {group_id}", details=answer.details, resolution=resolution)


def refused(answer: Answer, scope: Scope, doing: str) -> GhvmError:
    """The error for an answer that is none of those the caller expects; `doing` completes "cannot …"."""
    brief = f"cannot {doing} for {scope}"
    if answer.status == 401:
        resolution = "Check that the token is complete, not expired and not revoked."
        return PermanentError(
            f"{brief}: GitHub does not accept the credentials", details=answer.details, resolution=resolution
        )
    if answer.status == 403:
        resolution = _resolution(answer.message) or f"It needs {_NEEDS[scope.kind]}."
        return PermanentError(f"{brief}: GitHub forbids it", details=answer.details, resolution=resolution)
    if answer.status == 404:
        resolution = f"Check the name. It also needs {_NEEDS[scope.kind]}."
        return PermanentError(
            f"{brief}: GitHub shows no such thing to this token", details=answer.details, resolution=resolution
        )
    if 300 <= answer.status < 400:
        resolution = "It was renamed or moved: use the new name."
        return PermanentError(f"{brief}: it is elsewhere now", details=answer.details, resolution=resolution)
    if answer.status == 422 and "max limit" in answer.message.lower():
        resolution = "Remove runners that are offline, or use another runner group."
        return InfrastructureError(f"{brief}: the runner group is full", details=answer.details, resolution=resolution)
    resolution = "Change what GitHub's sentence names."
    return PermanentError(f"{brief}: GitHub refuses the request", details=answer.details, resolution=resolution)


def _resolution(message: str) -> str | None:
    lower = message.lower()
    return next((resolution for sentence, resolution in _SENTENCES.items() if sentence in lower), None)
