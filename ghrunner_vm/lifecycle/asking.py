"""Asks a live run something through its control socket: one JSON line each way."""

import json
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from ghrunner_vm.errors import GhvmError, InfrastructureError, PermanentError
from ghrunner_vm.lifecycle.control import Request

_LIMIT = 1 << 20


def ask(places: Sequence[Path], run_id: str, request: Request, *, seconds: float = 5.0) -> Mapping[str, object]:
    """The answer of a run whose socket lies in one of `places`.

    Raises GhvmError if it refuses, and InfrastructureError if it is gone, cannot be found or does not answer.
    """
    paths = [place / f"{run_id}.sock" for place in places]
    path = next(filter(os.path.lexists, paths), paths[0])
    try:
        line = _line(path, request, seconds)
    except FileNotFoundError as error:
        raise _not_found(run_id, places) from error
    except PermissionError as error:
        raise PermanentError(
            f"The run's control socket is not yours to use: {path}",
            resolution="Ask as the user whose run it is, with sudo for those of a system service.",
        ) from error
    except OSError as error:
        raise InfrastructureError(
            f"{run_id} does not answer: {error.strerror or 'no answer in time'}",
            details=str(path),
            resolution="If its ghvm hangs, `ghvm stop --force` ends it.",
        ) from error
    return _checked(line, run_id)


def _line(path: Path, request: Request, seconds: float) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(seconds)
        connection.connect(str(path))
        connection.sendall(request.model_dump_json(exclude_defaults=False).encode() + b"\n")
        with connection.makefile("rb") as answers:
            return answers.readline(_LIMIT)


def _not_found(run_id: str, places: Sequence[Path]) -> InfrastructureError:
    # It may well be healthy, so nothing that ends it is proposed.
    return InfrastructureError(
        f"{run_id} has no control socket where it is looked for",
        details=", ".join(map(str, places)),
        resolution="It may just begin or end: see `ghvm ps`. If it was started with another XDG_RUNTIME_DIR, set that.",
    )


def _checked(line: bytes, run_id: str) -> Mapping[str, object]:
    try:
        answer = json.loads(line)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise InfrastructureError(f"{run_id} has ended before it answered")
    if "error" in answer:
        raise GhvmError(str(answer["error"]), details=answer.get("details"), resolution=answer.get("resolution"))
    return answer
