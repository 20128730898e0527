"""Misbehaviour on demand: rules that replace, delay or cut the answers to chosen requests."""

import asyncio
import threading
from fnmatch import fnmatchcase
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

ADMIN_PREFIX = "/_sim"


class Rule(BaseModel):
    """One fault. The first rule that fits a request is used; `count` is how often (None: always).

    `path` is a shell pattern such as `/orgs/*/actions/runners/*`, without the query. `delay` is in seconds and comes
    first. `cut` closes the connection without an answer, `before` or `after` the request took effect. A `status`
    answers with that status, `body` and `headers`, and the request has no effect. With neither, the request is only
    delayed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str = "*"
    path: str = "*"
    count: int | None = Field(default=None, ge=1)
    delay: float = Field(default=0, ge=0, le=600)
    cut: Literal["before", "after"] | None = None
    status: int | None = Field(default=None, ge=200, le=599)
    body: str = ""
    headers: dict[str, str] = Field(default_factory=dict)

    def fits(self, method: str, path: str) -> bool:
        """Whether the rule is about this request."""
        return self.method in ("*", method) and fnmatchcase(path, self.path)


class Faults:
    """The rules in force. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._uses = 0
        self._rules: list[tuple[Rule, int | None]] = []

    def add(self, rule: Rule) -> None:
        """Put a rule behind those in force."""
        with self._lock:
            self._rules.append((rule, rule.count))

    def clear(self) -> None:
        """Behave well again."""
        with self._lock:
            self._rules.clear()

    def wait_used(self, times: int, timeout: float = 60) -> None:
        """Return once rules were used so often from now on. Raises TimeoutError after `timeout` seconds."""
        with self._lock:
            goal = self._uses + times
            if not self._lock.wait_for(lambda: self._uses >= goal, timeout):
                raise TimeoutError(f"no rule was used {times} times within {timeout} seconds")

    def take(self, method: str, path: str) -> Rule | None:
        """The rule for this request, counted as used."""
        with self._lock:
            for index, (rule, left) in enumerate(self._rules):
                if rule.fits(method, path):
                    self._uses += 1
                    self._lock.notify_all()
                    if left == 1:
                        del self._rules[index]
                    elif left is not None:
                        self._rules[index] = (rule, left - 1)
                    return rule
        return None


class FaultyAnswers:
    """ASGI middleware that applies the rules to everything but the admin routes."""

    def __init__(self, app: ASGIApp, faults: Faults) -> None:
        self._app = app
        self._faults = faults

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as the rules say, or as the application does."""
        rule = None
        if scope["type"] == "http" and not scope["path"].startswith(ADMIN_PREFIX):
            rule = self._faults.take(scope["method"], scope["path"])
        if rule is None:
            await self._app(scope, receive, send)
            return
        await asyncio.sleep(rule.delay)
        if rule.cut is not None:
            await self._cut(rule, scope, receive)
        elif rule.status is not None:
            await Response(rule.body, rule.status, rule.headers, "application/json")(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _cut(self, rule: Rule, scope: Scope, receive: Receive) -> None:
        if rule.cut == "after":
            await self._app(scope, receive, _drop)
        transport: asyncio.Transport = scope["state"]["transport"]
        transport.abort()
        while (await receive())["type"] != "http.disconnect":
            pass  # the request's body; the server logs an error if we end before it saw the cut


async def _drop(message: Message) -> None:
    """Take a part of an answer that nobody gets."""
