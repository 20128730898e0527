"""Firecracker's API over its socket, as far as it is needed (firecracker.yaml in its sources)."""

import http.client
import json
import socket

from ghrunner_vm.errors import InfrastructureError

_SECONDS = 5.0
_ANSWER_BYTES = 1 << 16


class Api:
    """The API behind a socket. Every call blocks, for five seconds at most."""

    def __init__(self, path: str) -> None:
        self._path = path

    def state(self) -> str:
        """`Running`, or what else it says of its machine. Raises OSError and InfrastructureError."""
        return str(self._ask("GET", "/").get("state"))

    def ctrl_alt_del(self) -> None:
        """Press the keys (x86_64 only). Raises OSError and InfrastructureError."""
        self._ask("PUT", "/actions", {"action_type": "SendCtrlAltDel"})

    def _ask(self, method: str, path: str, body: object = None) -> dict[str, object]:
        connection = _Connection(self._path)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            answer = connection.getresponse()
            told = answer.read(_ANSWER_BYTES)
        except http.client.HTTPException as error:
            raise InfrastructureError("Firecracker's API answers no HTTP", details=repr(error)) from error
        finally:
            connection.close()
        return _read(answer.status, told)


def _read(status: int, told: bytes) -> dict[str, object]:
    try:
        document = json.loads(told or b"{}")
    except ValueError:
        document = {}
    found = document if isinstance(document, dict) else {}
    if status >= http.client.BAD_REQUEST:
        details = str(found.get("fault_message") or told.decode(errors="replace"))
        raise InfrastructureError(f"Firecracker refused a request with status {status}", details=details)
    return found


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_SECONDS)
        self.sock.connect(self._path)
