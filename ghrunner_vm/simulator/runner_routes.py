"""GitHub's API about self-hosted runners, for organizations, repositories and enterprises."""

import hashlib
import json
import secrets
from dataclasses import replace
from typing import Annotated

from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ghrunner_vm.simulator.access import authorize
from ghrunner_vm.simulator.accounts import repository
from ghrunner_vm.simulator.model import Group, NotFound, Registration, Runner, Scope, timestamp
from ghrunner_vm.simulator.problems import read_body
from ghrunner_vm.simulator.releases import ARCHITECTURES, described
from ghrunner_vm.simulator.state import State

PREFIXES = ("/orgs/{org}", "/repos/{owner}/{repo}", "/enterprises/{enterprise}")
PAGE_LIMIT = 100
Label = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^,]+$")]


class JitRequest(BaseModel):
    """The body of `POST …/actions/runners/generate-jitconfig`."""

    name: str = Field(min_length=1, max_length=64, pattern=r'^[^"/:<>\\|*?]+$')
    runner_group_id: int = Field(strict=True)
    labels: list[Label] = Field(min_length=1, max_length=100)
    work_folder: str = Field(default="_work", min_length=1)


class RunnerRoutes:
    """Handlers that want an installation token with the right permission, or a person's token."""

    def __init__(self, state: State, releases_url: str) -> None:
        self._state = state
        self._releases_url = releases_url

    def routes(self) -> list[Route]:
        """Where each handler answers, for each kind of scope."""
        routes = []
        for prefix in PREFIXES:
            base = f"{prefix}/actions/runners"
            routes += [
                Route(base, self.list_runners, methods=["GET"]),
                Route(f"{base}/downloads", self.downloads, methods=["GET"]),
                Route(f"{base}/generate-jitconfig", self.generate_jitconfig, methods=["POST"]),
                Route(f"{base}/registration-token", self.registration_token, methods=["POST"]),
                Route(f"{base}/{{id:int}}", self.get_runner, methods=["GET"]),
                Route(f"{base}/{{id:int}}", self.delete_runner, methods=["DELETE"]),
            ]
            groups = f"{prefix}/actions/runner-groups"
            if not prefix.startswith("/repos"):
                routes.append(Route(groups, self.list_groups, methods=["GET"]))
                routes.append(Route(f"{groups}/{{id:int}}", self.get_group, methods=["GET"]))
            if prefix.startswith("/orgs"):
                routes.append(Route(f"{groups}/{{id:int}}/repositories", self.group_repositories, methods=["GET"]))
        return routes

    async def list_runners(self, request: Request) -> Response:
        """`GET …/actions/runners?name=&per_page=&page=`"""
        scope = self._scope(request, "read")
        name = request.query_params.get("name")
        runners = [runner for runner in self._state.runners(scope) if name is None or runner.name == name]
        return _page(request, "runners", [self._render(runner) for runner in runners])

    async def get_runner(self, request: Request) -> Response:
        """`GET …/actions/runners/{runner_id}`"""
        scope = self._scope(request, "read")
        return _conditional(request, self._render(self._state.runner(request.path_params["id"], scope)))

    async def delete_runner(self, request: Request) -> Response:
        """`DELETE …/actions/runners/{runner_id}`: 422 while it has a job."""
        self._state.remove(self._scope(request, "write"), request.path_params["id"])
        return Response(status_code=204)

    async def generate_jitconfig(self, request: Request) -> Response:
        """`POST …/actions/runners/generate-jitconfig`"""
        scope = self._scope(request, "write")
        asked = await read_body(request, JitRequest)
        registration = Registration(asked.name, asked.runner_group_id, tuple(asked.labels), asked.work_folder)
        runner, encoded = self._state.register(scope, registration)
        return JSONResponse({"runner": self._render(runner), "encoded_jit_config": encoded}, 201)

    async def registration_token(self, request: Request) -> Response:
        """`POST …/actions/runners/registration-token`"""
        self._scope(request, "write")
        expires_at = timestamp(self._state.clock.wall() + 3600)
        return JSONResponse({"token": f"A{secrets.token_hex(14).upper()}", "expires_at": expires_at}, 201)

    async def downloads(self, request: Request) -> Response:
        """`GET …/actions/runners/downloads`"""
        self._scope(request, "read")
        version, where = self._state.runner_version, self._releases_url
        return JSONResponse([described(version, architecture, where) for architecture in ARCHITECTURES])

    async def list_groups(self, request: Request) -> Response:
        """`GET /orgs/{org}/actions/runner-groups`, `GET /enterprises/{enterprise}/actions/runner-groups`"""
        scope = self._scope(request, "read")
        return _page(request, "runner_groups", [_render_group(scope, group) for group in self._state.groups.values()])

    async def get_group(self, request: Request) -> Response:
        """`GET …/actions/runner-groups/{runner_group_id}`"""
        scope = self._scope(request, "read")
        return JSONResponse(_render_group(scope, self._group(request)))

    async def group_repositories(self, request: Request) -> Response:
        """`GET /orgs/{org}/actions/runner-groups/{runner_group_id}/repositories`"""
        self._scope(request, "read")
        names = self._group(request).repositories or ()
        return _page(request, "repositories", [repository(name) for name in names])

    def _group(self, request: Request) -> Group:
        group = self._state.groups.get(request.path_params["id"])
        if group is None:
            raise NotFound
        return group

    def _render(self, runner: Runner) -> dict[str, object]:
        lie = self._state.conduct.says_busy
        return _render(runner if lie is None else replace(runner, busy=lie))

    def _scope(self, request: Request, level: str) -> Scope:
        scope = _scope(request.path_params)
        authorize(self._state.identity, request.state.principal, scope, level)
        return scope


def _scope(params: dict[str, str]) -> Scope:
    if "org" in params:
        return Scope("orgs", params["org"])
    if "repo" in params:
        return Scope("repos", f"{params['owner']}/{params['repo']}")
    return Scope("enterprises", params["enterprise"])


def _render(runner: Runner) -> dict[str, object]:
    return {
        "id": runner.id,
        "name": runner.name,
        "os": runner.os,
        "status": "online" if runner.online else "offline",
        "busy": runner.busy,
        "ephemeral": True,
        "runner_group_id": runner.group_id,
        "labels": [{"id": number, "name": name, "type": "custom"} for number, name in enumerate(runner.labels, 1)],
        **({"version": runner.version} if runner.version else {}),
    }


def _render_group(scope: Scope, group: Group) -> dict[str, object]:
    api = f"https://api.github.com{scope.path}/actions/runner-groups/{group.id}"
    return {
        "id": group.id,
        "name": group.name,
        "visibility": "all" if group.repositories is None else "selected",
        "default": group.default,
        "runners_url": f"{api}/runners",
        **({} if group.repositories is None else {"selected_repositories_url": f"{api}/repositories"}),
        "inherited": False,
        "allows_public_repositories": False,
        "restricted_to_workflows": False,
        "selected_workflows": [],
        "workflow_restrictions_read_only": False,
    }


def _page(request: Request, key: str, items: list[dict[str, object]]) -> Response:
    size = min(PAGE_LIMIT, max(1, _number(request, "per_page", 30)))
    page = max(1, _number(request, "page", 1))
    last = max(1, -(-len(items) // size))
    response = _conditional(request, {"total_count": len(items), key: items[(page - 1) * size : page * size]})
    pages = {"prev": page - 1, "next": page + 1, "last": last, "first": 1}
    shown = {"prev", "first"} if page > 1 else set()
    shown |= {"next", "last"} if page < last else set()
    links = [f'<{request.url.include_query_params(page=n)}>; rel="{rel}"' for rel, n in pages.items() if rel in shown]
    if links:
        response.headers["link"] = ", ".join(links)
    return response


def _number(request: Request, key: str, default: int) -> int:
    text = request.query_params.get(key, "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else default


def _conditional(request: Request, value: dict[str, object]) -> Response:
    """200 with an ETag, which depends on the token as GitHub's does, or 304 if that is what the client has."""
    content = json.dumps(value).encode()
    etag = f'W/"{hashlib.sha256(request.state.principal.token.encode() + content).hexdigest()}"'
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers={"etag": etag})
    return Response(content, 200, {"etag": etag}, "application/json")
