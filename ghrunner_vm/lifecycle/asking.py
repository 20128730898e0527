"""Asks a live run something through its control socket: one JSON line each way."""

import json
import socket
from collections.abc import Mapping
from pathlib import Path

from ghrunner_vm.errors import GhvmError, InfrastructureError, PermanentError
from ghrunner_vm.lifecycle.control import Request

_LIMIT = 1 << 20


def ask(path: Path, request: Request, *, seconds: float = 5.0) -> Mapping[str, object]:
    """The run's answer. Raises GhvmError if it refuses, and InfrastructureError if it is gone or does not answer."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(seconds)
        try:
            connection.connect(str(path))
            connection.sendall(request.model_dump_json(exclude_defaults=False).encode() + b"\n")
            with connection.makefile("rb") as answers:
                line = answers.readline(_LIMIT)
        except PermissionError as error:
            raise PermanentError(
                f"The run's control socket is not yours to use: {path}",
                resolution="Ask as the user whose run it is, with sudo for those of a system service.",
            ) from error
        except OSError as error:
            raise InfrastructureError(
                f"The run does not answer: {error.strerror or 'no answer in time'}",
                details=str(path),
                resolution="If its ghvm hangs, `ghvm stop --force` ends it.",
            ) from error
    return _checked(line, path)


def _checked(line: bytes, path: Path) -> Mapping[str, object]:
    try:
        answer = json.loads(line)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise InfrastructureError("The run has ended before it answered", details=str(path))
    if "error" in answer:
        raise GhvmError(str(answer["error"]), details=answer.get("details"), resolution=answer.get("resolution"))
    return answer
