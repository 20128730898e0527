"""GitHub's API about the App itself: the App, its installations and their tokens, and the rate limit."""

from collections.abc import Awaitable, Callable

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ghrunner_vm.simulator.accounts import CREATED, account, node_id, number
from ghrunner_vm.simulator.envelope import RateLimits
from ghrunner_vm.simulator.identity import AccountKind, Identity, Installation, Principal
from ghrunner_vm.simulator.model import timestamp
from ghrunner_vm.simulator.problems import Denied, read_body

STATELESS_HEADER = "x-github-stateless-s2s-token"
Handler = Callable[[Request], Awaitable[Response]]


class TokenRequest(BaseModel):
    """The body of `POST /app/installations/{installation_id}/access_tokens`, as far as it is looked at."""

    permissions: dict[str, str] | None = None


class AppRoutes:
    """Handlers that want the App's JWT, but for the rate limit and the revocation of a token."""

    def __init__(self, identity: Identity, rates: RateLimits) -> None:
        self._identity = identity
        self._rates = rates

    def routes(self) -> list[Route]:
        """Where each handler answers."""
        return [
            Route("/app", self.app, methods=["GET"]),
            Route("/app/installations", self.installations, methods=["GET"]),
            Route("/app/installations/{id:int}", self.installation, methods=["GET"]),
            Route("/app/installations/{id:int}/access_tokens", self.create_token, methods=["POST"]),
            Route("/orgs/{account}/installation", self.on_account(("Organization",)), methods=["GET"]),
            Route("/repos/{account}/{repo}/installation", self.on_account(("Organization", "User")), methods=["GET"]),
            Route("/users/{account}/installation", self.on_account(("User",)), methods=["GET"]),
            Route("/enterprises/{account}/installation", self.on_account(("Enterprise",)), methods=["GET"]),
            Route("/installation/token", self.revoke_token, methods=["DELETE"]),
            Route("/rate_limit", self.rate_limit, methods=["GET"]),
        ]

    async def app(self, request: Request) -> Response:
        """`GET /app`"""
        _want_app(request)
        slug = "ghvm-demo"
        first = self._identity.installations()[0]
        return JSONResponse(
            {
                "id": self._identity.app_id,
                "client_id": self._identity.client_id,
                "slug": slug,
                "node_id": node_id("app", self._identity.app_id),
                "owner": account(first.account, first.kind),
                "name": "ghvm demo",
                "description": None,
                "external_url": "https://example.com",
                "html_url": f"https://github.com/apps/{slug}",
                "created_at": CREATED,
                "updated_at": CREATED,
                "permissions": dict(first.permissions),
                "events": ["workflow_job"],
                "installations_count": len(self._identity.installations()),
            }
        )

    async def installations(self, request: Request) -> Response:
        """`GET /app/installations`"""
        _want_app(request)
        return JSONResponse([self._render(installation) for installation in self._identity.installations()])

    async def installation(self, request: Request) -> Response:
        """`GET /app/installations/{installation_id}`"""
        _want_app(request)
        return JSONResponse(self._render(self._identity.installation_by_id(request.path_params["id"])))

    def on_account(self, kinds: tuple[AccountKind, ...]) -> Handler:
        """The handler of `GET /orgs|repos|users|enterprises/…/installation`"""

        async def handler(request: Request) -> Response:
            _want_app(request)
            return JSONResponse(self._render(self._identity.installation(request.path_params["account"], *kinds)))

        return handler

    async def create_token(self, request: Request) -> Response:
        """`POST /app/installations/{installation_id}/access_tokens`"""
        _want_app(request)
        asked = await read_body(request, TokenRequest)
        wish = {"enabled": True, "disabled": False}.get(request.headers.get(STATELESS_HEADER, ""))
        stateless = self._identity.stateless_tokens if wish is None else wish
        token = self._identity.grant(request.path_params["id"], asked.permissions, stateless=stateless)
        body = {
            "token": token.text,
            "expires_at": timestamp(token.expires_at),
            "permissions": dict(token.permissions),
            "repository_selection": "all",
        }
        return JSONResponse(body, 201)

    async def revoke_token(self, request: Request) -> Response:
        """`DELETE /installation/token`"""
        principal: Principal = request.state.principal
        if principal.kind != "installation":
            raise Denied(403, "This endpoint requires you to authenticate with an installation access token.")
        self._identity.revoke(principal.token)
        return Response(status_code=204)

    async def rate_limit(self, request: Request) -> Response:
        """`GET /rate_limit`: free; the top-level `rate` is gone since API version 2026-03-10."""
        core = self._rates.look(request.state.principal.bucket).as_json()
        unused = {"limit": 1000, "used": 0, "remaining": 1000, "reset": core["reset"]}
        body: dict[str, object] = {
            "resources": {"core": core, "search": {**unused, "limit": 30, "remaining": 30}, "graphql": unused}
            | {"actions_runner_registration": {**unused, "limit": 10_000, "remaining": 10_000}}
        }
        if request.headers.get("x-github-api-version") != "2026-03-10":
            body["rate"] = core
        return JSONResponse(body)

    def _render(self, installation: Installation) -> dict[str, object]:
        api = f"https://api.github.com/app/installations/{installation.id}"
        return {
            "id": installation.id,
            "client_id": self._identity.client_id,
            "account": account(installation.account, installation.kind),
            "repository_selection": "all",
            "access_tokens_url": f"{api}/access_tokens",
            "repositories_url": "https://api.github.com/installation/repositories",
            "html_url": f"https://github.com/settings/installations/{installation.id}",
            "app_id": self._identity.app_id,
            "app_slug": "ghvm-demo",
            "target_id": number(installation.account),
            "target_type": installation.kind,
            "permissions": dict(installation.permissions),
            "events": ["workflow_job"],
            "created_at": installation.created_at,
            "updated_at": installation.created_at,
            "single_file_name": None,
            "has_multiple_single_files": False,
            "single_file_paths": [],
            "suspended_by": None,
            "suspended_at": installation.suspended_at,
        }


def _want_app(request: Request) -> None:
    if request.state.principal.kind != "app":
        raise Denied(401, "A JSON web token could not be decoded")
