"""Which token may do what with the runners of which scope."""

from ghrunner_vm.simulator.identity import AccountKind, Identity, Principal
from ghrunner_vm.simulator.model import NotFound, Scope, ScopeKind
from ghrunner_vm.simulator.problems import Denied

OWNERS: dict[ScopeKind, tuple[AccountKind, ...]] = {
    "orgs": ("Organization",),
    "repos": ("Organization", "User"),
    "enterprises": ("Enterprise",),
}
PERMISSIONS: dict[ScopeKind, str] = {"orgs": "organization_self_hosted_runners", "repos": "administration"}


def authorize(identity: Identity, principal: Principal, scope: Scope, level: str) -> None:
    """Let the request pass, or raise NotFound (not visible) or Denied (401, 403), as GitHub does.

    An enterprise's runners are for a person's token only: no App permission exists for them.
    """
    if principal.kind == "anonymous":
        raise Denied(401, "Requires authentication")
    if principal.kind == "app":
        raise Denied(401, "Bad credentials")
    identity.installation(scope.owner, *OWNERS[scope.kind])
    if principal.kind == "person":
        return
    if scope.kind not in PERMISSIONS:
        raise Denied(403, "Resource not accessible by integration")
    if principal.account != scope.owner:
        raise NotFound
    if not principal.may(PERMISSIONS[scope.kind], level):
        raise Denied(403, "Resource not accessible by integration")
