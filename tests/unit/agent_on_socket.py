"""The real agent script on this host, in a file system of its own, at the other end of a socket."""

import base64
import hashlib
import json
import os
import signal
import socket
import subprocess  # noqa: TID251 the test talks to a running process  # noqa: TID251 the other side of a socket, started by hand
from contextlib import ExitStack
from pathlib import Path

import ghrunner_vm.guest
from ghrunner_vm.guest.messages import LINE_LIMIT, GuestMessage, Ready, decode

AGENT = Path(ghrunner_vm.guest.__file__).parent / "image/agent"
CONFIG = "c2VjcmV0LXJlZ2lzdHJhdGlvbg=="
DIGEST = hashlib.sha256(CONFIG.encode()).hexdigest()
SECONDS = 60.0


class Guest:
    """A guest's file system in a directory, and the agent in it at the other end of a socket."""

    def __init__(self, shell: list[str], path: str, root: Path) -> None:
        self._shell = shell
        self._root = root
        self._stack = ExitStack()
        ours, theirs = socket.socketpair()
        self._channel, self._theirs = self._stack.enter_context(ours), self._stack.enter_context(theirs)
        self._channel.settimeout(SECONDS)
        self._lines = self._stack.enter_context(self._channel.makefile("rb"))
        (root / "runner/bin").mkdir(parents=True)
        os.mkfifo(root / "gate")
        self.program("power-off", f"touch {root}/is-off")
        settings = {
            "PATH": path,
            "RUNNER_ROOT": root / "runner",
            "STATE": root / "state",
            "POWER_OFF": root / "power-off",
            "RUNNER_USER": "root",
            "RELAUNCH_SECONDS": 0,
            "UPDATE_SECONDS": 0,
        }
        text = "".join(f'{name}="{value}"\n' for name, value in settings.items())
        (root / "agent.conf").write_text(text, encoding="utf-8")

    def __enter__(self) -> "Guest":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def is_off(self) -> bool:
        return (self._root / "is-off").exists()

    def file(self, name: str) -> Path:
        return self._root / name

    def program(self, name: str, script: str) -> None:
        path = self._root / name
        path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        path.chmod(0o755)

    def setting(self, line: str) -> None:
        """One more line of its settings, which are shell text."""
        with self.file("agent.conf").open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")

    def listener(self, script: str) -> None:
        """What stands in for the runner's listener."""
        self.program("runner/bin/Runner.Listener", f"cd {self._root}\n{script}")

    def boot(self) -> None:
        """Start the agent; it says that it is ready."""
        environment = {"PATH": os.environ["PATH"], "GHVM_AGENT_CONF": str(self.file("agent.conf"))}
        argv = [*self._shell, str(AGENT), "--stdio"]
        process = subprocess.Popen(
            argv, stdin=self._theirs.fileno(), stdout=self._theirs.fileno(), env=environment, start_new_session=True
        )
        self._stack.callback(_end, process)
        self._theirs.close()
        ready = self.hear()
        assert isinstance(ready, Ready)

    def start(self, **fields: str) -> None:
        """Send `start` with these fields beside the registration."""
        given = {"jitconfig": CONFIG, "sha256": DIGEST, **fields}
        lines = [
            f"{key.replace('_', '-')} {base64.b64encode(value.encode()).decode()}\n" for key, value in given.items()
        ]
        self.say(f"start\n{''.join(lines)}\n".encode())

    def say(self, words: bytes) -> None:
        self._channel.sendall(words)

    def hear(self) -> GuestMessage | None:
        """The next message; None at the end. Every line must be of the contract, in strict JSON and UTF-8 or not."""
        try:
            line = self._lines.readline()
        except ConnectionResetError:
            return None  # it ended without reading all that it was sent
        if not line:
            return None
        assert len(line) <= LINE_LIMIT
        json.loads(line.decode(errors="replace"), strict=True)
        message = decode(line)
        assert message is not None, line
        return message

    def hear_until(self, kind: type[GuestMessage]) -> list[GuestMessage]:
        heard: list[GuestMessage] = []
        while (message := self.hear()) is not None:
            heard.append(message)
            if isinstance(message, kind):
                return heard
        raise AssertionError(f"no {kind.__name__} but {heard}")

    def hear_out(self) -> list[GuestMessage]:
        """All that the agent says until it ends, once the host has nothing to say any more."""
        self._channel.shutdown(socket.SHUT_WR)
        return list(iter(self.hear, None))


def _end(process: "subprocess.Popen[bytes]") -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        process.wait()
