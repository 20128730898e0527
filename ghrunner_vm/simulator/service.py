"""What a listener talks to: a stand-in for the Actions service, which is not public, made for a POSIX shell.

Every answer is 200 with lines `key base64-value`; `type` says what happened (`ok`, `none`, `job`, `gone`, `too-old`).
The bearer is the clientId of the runner's JIT config.
"""

import asyncio
import base64

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from ghrunner_vm.simulator.model import Conclusion, Message, NotFound
from ghrunner_vm.simulator.state import State
from ghrunner_vm.threads import in_daemon_thread

POLL_SECONDS = 20.0
CONCLUSIONS: dict[str, Conclusion] = {"Succeeded": "success", "Failed": "failure", "Canceled": "cancelled"}


class Service:
    """Handlers for one runner's life: session, message, accept, log, complete."""

    def __init__(self, state: State) -> None:
        self._state = state

    def application(self) -> Starlette:
        """The routes, below the service URL."""
        return Starlette(
            routes=[
                Route("/session", self.open_session, methods=["POST"]),
                Route("/session", self.close_session, methods=["DELETE"]),
                Route("/message", self.message, methods=["GET"]),
                Route("/jobs/{id:int}/accept", self.accept, methods=["POST"]),
                Route("/jobs/{id:int}/log", self.log, methods=["POST"]),
                Route("/jobs/{id:int}/complete", self.complete, methods=["POST"]),
            ],
            exception_handlers={NotFound: _gone},
        )

    async def open_session(self, request: Request) -> Response:
        """`POST session`, header `X-Runner-Version`: the runner goes online."""
        runner = self._state.open_session(_bearer(request), request.headers.get("x-runner-version", "0"))
        return _answer(type="ok", name=runner.name)

    async def close_session(self, request: Request) -> Response:
        """`DELETE session`: the runner goes offline; it stays busy if it has a job."""
        self._state.disconnect(self._state.owner(_bearer(request)).id)
        return _answer(type="ok")

    async def message(self, request: Request) -> Response:
        """`GET message`: a long poll. A listener that hangs up while it waits is offline."""
        bearer = _bearer(request)
        waiting = asyncio.ensure_future(
            in_daemon_thread(lambda: self._state.next_message(bearer, POLL_SECONDS), name="simulator-poll")
        )
        hung_up = asyncio.ensure_future(_hung_up(request))
        await asyncio.wait({waiting, hung_up}, return_when=asyncio.FIRST_COMPLETED)
        hung_up.cancel()
        if not waiting.done():
            waiting.cancel()
            self._state.disconnect(self._state.owner(bearer).id)
            return _answer(type="none")
        return _describe(waiting.result())

    async def accept(self, request: Request) -> Response:
        """`POST jobs/ID/accept`: the job is in progress."""
        self._state.accept(_bearer(request), request.path_params["id"])
        return _answer(type="ok")

    async def log(self, request: Request) -> Response:
        """`POST jobs/ID/log`, a streamed body: each line is visible at once.

        A stream that breaks leaves the runner offline and busy.
        """
        bearer, job_id = _bearer(request), request.path_params["id"]
        rest = b""
        try:
            async for chunk in request.stream():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    self._state.append_log(bearer, job_id, line.decode(errors="replace"))
        except ClientDisconnect:
            self._state.disconnect(self._state.owner(bearer).id)
        if rest:
            self._state.append_log(bearer, job_id, rest.decode(errors="replace"))
        return _answer(type="ok")

    async def complete(self, request: Request) -> Response:
        """`POST jobs/ID/complete`, body `Succeeded`, `Failed` or `Canceled`: the end of job and registration."""
        result = (await request.body()).decode(errors="replace").strip()
        if result not in CONCLUSIONS:
            return PlainTextResponse("no such result", 400)
        self._state.complete(_bearer(request), request.path_params["id"], CONCLUSIONS[result])
        return _answer(type="ok")


def _bearer(request: Request) -> str:
    return request.headers.get("authorization", "").removeprefix("Bearer ")


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _describe(message: Message) -> Response:
    if message.job is None:
        return _answer(type=message.type)
    return _answer(type=message.type, id=str(message.job.id), name=message.job.name, run=message.job.run)


async def _gone(_request: Request, _error: Exception) -> Response:
    return _answer(type="gone")


def _answer(**values: str) -> Response:
    lines = (f"{key} {base64.b64encode(value.encode()).decode()}\n" for key, value in values.items())
    return PlainTextResponse("".join(lines))
