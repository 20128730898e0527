"""JSON Web Tokens of a GitHub App, each signed in a process that ends with it.

Light to import: a run starts its signer before it loads its own libraries, so that both load at once.
"""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from ghrunner_vm import process
from ghrunner_vm.errors import PermanentError

_PROGRAM = Path(__file__).with_name("signer.py")
_BAD_KEY = 3
_SIGN_SECONDS = 30.0
_PAST, _AHEAD = 60, 8 * 60
"""GitHub allows ten minutes ahead of its own clock; a minute in the past forgives a fast clock here."""


@contextlib.contextmanager
def signer() -> Iterator[process.Program]:
    """The program `github/signer.py`, which waits for what to sign."""
    path = os.pathsep.join(filter(None, sys.path))  # its libraries are found where ours are
    with process.begin([sys.executable, "-P", str(_PROGRAM)], env={"PYTHONPATH": path}) as program:
        yield program


def sign(program: process.Program, client_id: str, pem: str, now: float) -> str:
    """What proves for eight minutes that we are the App; `now` is seconds since 1970.

    Raises PermanentError for a key that is no RSA key, InfrastructureError after 30 s.
    """
    claims = {"iat": int(now) - _PAST, "exp": int(now) + _AHEAD, "iss": client_id}
    try:
        return program.finish(json.dumps({"key": pem, "claims": claims}), timeout=_SIGN_SECONDS)
    except process.CommandFailed as error:
        if error.code != _BAD_KEY:
            raise
        resolution = "Give the .pem file that GitHub made for the App, unchanged."
        brief = "the App's private key is not a plain RSA key in PEM form"
        raise PermanentError(brief, resolution=resolution) from error
