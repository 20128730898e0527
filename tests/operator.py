"""A person at a host: the commands that need a GitHub and no machine, each in a process of its own."""

import os
import re
import subprocess  # noqa: TID251 the tests look at streams and exit codes, and signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ghrunner_vm.simulator.server import Simulator

GHVM = (sys.executable, "-m", "ghrunner_vm")
SECONDS = 60.0
_VARIABLE = (
    (re.compile(r"127\.0\.0\.1:\d+"), "HOST"),
    (re.compile(r"10\.0\.2\.2:\d+"), "GUEST"),
    (re.compile(r"ghvm-token-[0-9a-f]{8}"), "ghvm-token-ID"),
    (re.compile(r"\b\d{10}\b"), "TIME"),
    (re.compile(r"\d{4} characters"), "4000 characters"),
    (re.compile(r'"characters": \d{4}'), '"characters": 4000'),
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC"), "DATE"),
    (re.compile(r"x-github-request-id [0-9A-F:]+"), "x-github-request-id ID"),
    (re.compile(r'"ahead-seconds": -?[01]\b'), '"ahead-seconds": 0'),
)


@dataclass(frozen=True)
class Operator:
    """A directory of its own, and the App's key."""

    directory: Path
    sim: Simulator

    @property
    def runs(self) -> Path:
        return self.directory / "state" / "runs"

    @property
    def recorded(self) -> list[str]:
        """The run directories that are left."""
        return sorted(path.name for path in self.runs.glob("*"))

    @property
    def registered(self) -> list[str]:
        return [runner.name for runner in self.sim.state.runners()]

    @property
    def environment(self) -> dict[str, str]:
        """No setting of the person who runs the tests is in force; coverage may follow the child."""
        kept = {name: value for name, value in os.environ.items() if name == "PATH" or name.startswith("COV")}
        key = self.directory / "key.pem"
        if not key.exists():
            key.touch(mode=0o600)
            key.write_text(self.sim.private_key_pem, encoding="utf-8")
        settings = {
            "ORG": "demo-org",
            "API_URL": self.sim.url,
            "CLIENT_ID": self.sim.client_id,
            "PRIVATE_KEY": str(key),
        }
        own = {
            "HOME": str(self.directory),
            "XDG_CONFIG_DIRS": str(self.directory),
            "XDG_RUNTIME_DIR": str(self.directory),
        }
        state = {"GHVM_STATE_DIR": str(self.directory / "state")}
        return {**kept, **own, **state, **{f"GHVM_GITHUB_{name}": value for name, value in settings.items()}}

    def start(self, *words: str, program: Sequence[str] = GHVM, **env: str) -> "subprocess.Popen[str]":
        """A `ghvm` that runs; the caller waits for its end."""
        return subprocess.Popen(
            [*program, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**self.environment, **env},
        )

    def ghvm(self, *words: str, program: Sequence[str] = GHVM, **env: str) -> "subprocess.CompletedProcess[str]":
        """A `ghvm` to its end."""
        with self.start(*words, program=program, **env) as process:
            try:
                out, err = process.communicate(timeout=SECONDS)
            except BaseException:
                process.kill()
                raise
        return subprocess.CompletedProcess(words, process.returncode, out, err)


def stable(text: str) -> str:
    """The text with what differs from run to run replaced by words."""
    for pattern, word in _VARIABLE:
        text = pattern.sub(word, text)
    return text
