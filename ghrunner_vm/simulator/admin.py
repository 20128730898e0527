"""Control of the simulator, for tests and `ghvm sim job`. There is no authentication: it is served on loopback only."""

from dataclasses import asdict

from pydantic import BaseModel, ConfigDict, Field
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ghrunner_vm.errors import UsageError
from ghrunner_vm.simulator.faults import Faults, Rule
from ghrunner_vm.simulator.model import Job, Runner
from ghrunner_vm.simulator.problems import HANDLERS, Denied, read_body
from ghrunner_vm.simulator.state import State
from ghrunner_vm.simulator.trouble import CATALOGUE, Troubles
from ghrunner_vm.threads import in_daemon_thread

MAX_WAIT_SECONDS = 20.0


class JobRequest(BaseModel):
    """The body of `POST jobs`."""

    model_config = ConfigDict(extra="forbid")

    labels: list[str] = Field(min_length=1)
    run: str
    name: str = Field(default="build", min_length=1, pattern=r"^[^\r\n]+$")


class AssignRequest(BaseModel):
    """The body of `POST jobs/ID/assign`."""

    model_config = ConfigDict(extra="forbid")

    runner_id: int


class Admin:
    """Handlers below `/_sim`."""

    def __init__(self, state: State, faults: Faults, troubles: Troubles) -> None:
        self._state = state
        self._faults = faults
        self._troubles = troubles

    def application(self) -> Starlette:
        """The routes."""
        return Starlette(
            routes=[
                Route("/jobs", self.create_job, methods=["POST"]),
                Route("/jobs/{id:int}", self.job, methods=["GET"]),
                Route("/jobs/{id:int}/assign", self.assign, methods=["POST"]),
                Route("/runners", self.runners, methods=["GET"]),
                Route("/runners/{id:int}/remove", self.remove_runner, methods=["POST"]),
                Route("/faults", self.add_fault, methods=["POST"]),
                Route("/faults", self.clear_faults, methods=["DELETE"]),
                Route("/troubles", self.list_troubles, methods=["GET"]),
                Route("/troubles", self.end_troubles, methods=["DELETE"]),
                Route("/troubles/{name}", self.begin_trouble, methods=["POST"]),
            ],
            exception_handlers=HANDLERS,
        )

    async def create_job(self, request: Request) -> Response:
        """`POST jobs` {labels, run, name}: queue a job."""
        asked = await read_body(request, JobRequest)
        return JSONResponse(_job(self._state.enqueue(asked.labels, asked.run, asked.name), 0), 201)

    async def job(self, request: Request) -> Response:
        """`GET jobs/ID?from=N&wait=SECONDS`: the job with its log from line N on.

        Waits until there is such a line or the job has ended, for at most `wait` seconds (20 at most).
        """
        job_id, start = request.path_params["id"], int(_number(request, "from"))
        seconds = min(MAX_WAIT_SECONDS, _number(request, "wait"))
        if seconds > 0:
            await in_daemon_thread(lambda: self._wait(job_id, start, seconds), name="simulator-follow")
        return JSONResponse(_job(self._state.job(job_id), start))

    async def assign(self, request: Request) -> Response:
        """`POST jobs/ID/assign` {runner_id}: the runner is busy from now on."""
        asked = await read_body(request, AssignRequest)
        try:
            self._state.assign(request.path_params["id"], asked.runner_id)
        except ValueError as error:
            raise Denied(409, str(error)) from None
        return JSONResponse(_job(self._state.job(request.path_params["id"]), 0))

    async def runners(self, _request: Request) -> Response:
        """`GET runners`: all runners of all scopes."""
        return JSONResponse([_runner(runner) for runner in self._state.runners()])

    async def remove_runner(self, request: Request) -> Response:
        """`POST runners/ID/remove`: the service drops a runner; a job it has fails."""
        self._state.drop(request.path_params["id"])
        return Response(status_code=204)

    async def add_fault(self, request: Request) -> Response:
        """`POST faults`: one `faults.Rule`."""
        self._faults.add(await read_body(request, Rule))
        return Response(status_code=204)

    async def clear_faults(self, _request: Request) -> Response:
        """`DELETE faults`"""
        self._faults.clear()
        return Response(status_code=204)

    async def list_troubles(self, _request: Request) -> Response:
        """`GET troubles`: what can be begun, by name, and what it is."""
        return JSONResponse({name: trouble.about for name, trouble in CATALOGUE.items()})

    async def begin_trouble(self, request: Request) -> Response:
        """`POST troubles/NAME`: misbehave from now on."""
        try:
            self._troubles.begin(request.path_params["name"])
        except UsageError as error:
            raise Denied(404, error.brief) from None
        return Response(status_code=204)

    async def end_troubles(self, _request: Request) -> Response:
        """`DELETE troubles`: behave well again; faults end as well."""
        self._troubles.end()
        return Response(status_code=204)

    def _wait(self, job_id: int, start: int, seconds: float) -> None:
        try:
            self._state.wait_job(job_id, lambda job: job.status == "completed" or len(job.log) > start, seconds)
        except TimeoutError:
            return  # the answer shows how things stand


def _number(request: Request, key: str) -> float:
    try:
        return max(0.0, float(request.query_params.get(key, "0")))
    except ValueError:
        raise Denied(422, f"{key}: not a number") from None


def _job(job: Job, start: int) -> dict[str, object]:
    return {**asdict(job), "log": job.log[start:]}


def _runner(runner: Runner) -> dict[str, object]:
    record = asdict(runner)
    del record["bearer"]
    return {**record, "scope": runner.scope.path}
