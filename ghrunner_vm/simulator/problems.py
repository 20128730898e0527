"""GitHub's error bodies: `basic-error` and, for 422, `validation-error-simple`."""

import json
from collections.abc import Sequence
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ghrunner_vm.simulator.identity import BadCredentials, Suspended, TooMuchAsked
from ghrunner_vm.simulator.model import GroupFull, NameTaken, NotFound, StillBusy

DOCUMENTATION = "https://docs.github.com/rest"
STATUS: dict[type[Exception], int] = {
    BadCredentials: 401,
    Suspended: 403,
    NotFound: 404,
    NameTaken: 409,
    GroupFull: 422,
    StillBusy: 422,
    TooMuchAsked: 422,
}
Body = TypeVar("Body", bound=BaseModel)


class Denied(Exception):
    """Any other refusal, with its HTTP status."""

    def __init__(self, status: int, message: str, errors: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.errors = list(errors)


def problem(error: Exception) -> Response:
    """The answer for an error that the simulator's parts raise."""
    if isinstance(error, HTTPException):
        status, message = error.status_code, error.detail
    elif isinstance(error, Denied):
        status, message = error.status, str(error)
    else:
        status, message = STATUS[type(error)], str(error)
    body: dict[str, object] = {"message": message, "documentation_url": DOCUMENTATION, "status": str(status)}
    if isinstance(error, Denied) and error.errors:
        body["errors"] = error.errors
    return JSONResponse(body, status)


async def answer_problem(_request: Request, error: Exception) -> Response:
    """`problem` as starlette's exception handler."""
    return problem(error)


HANDLERS = dict.fromkeys((*STATUS, Denied, HTTPException), answer_problem)


async def read_body(request: Request, model: type[Body]) -> Body:
    """The request's JSON, checked. Raises Denied: 400 for what is no JSON object, 422 for what does not fit."""
    try:
        value = json.loads(await request.body() or b"{}")
    except ValueError:
        raise Denied(400, "Problems parsing JSON") from None
    if not isinstance(value, dict):
        raise Denied(400, "Body should be a JSON object")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
        raise Denied(422, "Invalid request.\n\n" + "\n".join(faults), faults) from None
