"""The surroundings of one test: a simulated GitHub, images, and directories of its own."""

import contextlib
import hashlib
import json
import os
import signal
import subprocess  # noqa: TID251 the tests talk to a running ghvm and signal it
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ghrunner_vm import config
from ghrunner_vm.config import Settings
from ghrunner_vm.simulator.faults import Rule
from ghrunner_vm.simulator.model import Job, Runner
from ghrunner_vm.simulator.server import Simulator
from tests import guests
from tests.harness import WAIT_SECONDS, Following, Gate, GhvmRun, OnTerminal, proc, processes

GHVM = (sys.executable, "-m", "ghrunner_vm")


@dataclass(frozen=True)
class Lab:
    """What one test works with. Its label is its own, so what it leaves behind can be told from others' work."""

    directory: Path
    label: str
    sim: Simulator
    images_url: str
    cache: Path
    program: Sequence[str] = GHVM
    reach: Sequence[str] = ("--allow-host-loopback",)
    """What the guests need to reach this test's servers."""

    @property
    def temporary(self) -> Path:
        """TMPDIR of every ghvm of this test."""
        return self.directory / "tmp"

    @property
    def state(self) -> Path:
        return self.directory / "state"

    @property
    def runs(self) -> list[Path]:
        """The run directories, those that wait for gc included."""
        return sorted((self.state / "runs").glob("*"))

    @property
    def runners(self) -> list[Runner]:
        """What the simulator has registered for this test."""
        return [runner for runner in self.sim.state.runners() if runner.name.startswith(f"{self.label}-")]

    @property
    def machines(self) -> list[int]:
        """The process ids of this test's QEMUs and Firecrackers."""
        return [pid for pid in processes() if self._is_machine(proc(pid, "cmdline"))]

    def job(self, script: str, *, name: str = "job") -> Job:
        """Queue a job for this test's runners: shell text."""
        return self.sim.state.enqueue(labels=[self.label], run=script, name=name)

    def break_github(self) -> None:
        """GitHub's API answers with errors until the simulator's faults are cleared; the runners' service works."""
        self.sim.faults.add(Rule(path="/orgs/*", status=500))

    def finished(self, job: Job) -> Job:
        """The job, once it has ended."""
        return self.sim.state.wait_job(job.id, "completed", WAIT_SECONDS)

    @contextlib.contextmanager
    def gate(self) -> Iterator[Gate]:
        """Something for a job to wait for."""
        gate = Gate()
        try:
            yield gate
        finally:
            gate.close()

    @contextlib.contextmanager
    def run(
        self,
        *flags: str,
        env: Mapping[str, str] | None = None,
        deaf_after: str | None = None,
        program: Sequence[str] | None = None,
        **spec: object,
    ) -> Iterator[GhvmRun]:
        """A `ghvm run`. Later flags win over the usual ones; `spec` changes keys of the instance spec."""
        usual = (
            *("--images-server", self.images_url, "--images-cache-dir", str(self.cache)),
            *("--accel", "tcg", "--allow-emulation", "--log-format", "json"),
            *self.reach,
        )
        argv = [*(program or self.program), "run", str(self._spec(spec)), *self._scope(), *usual, *flags]
        process = subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self._environment(env)
        )
        run = GhvmRun(process, deaf_after=deaf_after)
        try:
            yield run
        finally:
            run.close()

    def ghvm(self, *words: str, timeout: float = WAIT_SECONDS) -> "subprocess.CompletedProcess[str]":
        """A ghvm command that looks at this test's runs."""
        argv = [*self.program, *words]
        at = argv.index("--") if "--" in argv else len(argv)
        argv[at:at] = ["--state-dir", str(self.state)]
        return subprocess.run(
            argv, capture_output=True, text=True, timeout=timeout, check=False, env=self._environment()
        )

    @contextlib.contextmanager
    def start(self, *words: str) -> Iterator[Following]:
        """As `ghvm`, read while it runs."""
        argv = [*self.program, *words, "--state-dir", str(self.state)]
        process = subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=self._environment(), bufsize=0
        )
        with contextlib.closing(Following(process)) as following:
            yield following

    @contextlib.contextmanager
    def on_a_terminal(self, *words: str) -> Iterator[OnTerminal]:
        """As `ghvm`, with a terminal of 120 columns that somebody looks at."""
        argv = [*self.program, *words, "--state-dir", str(self.state)]
        with contextlib.closing(OnTerminal(argv, {**self._environment(), "TERM": "xterm"})) as terminal:
            yield terminal

    def gc(self) -> tuple[int, dict[str, str]]:
        """`ghvm gc`: its exit code, and what became of each run."""
        argv = [*self.program, "gc", "--json", *self._scope()]
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False, env=self._environment()
        )
        return done.returncode, {one["id"]: one["fate"] for one in json.loads(done.stdout)["collected"]}

    def let_go_and_collect(self) -> None:
        """GitHub notices that the runner is dead, and `ghvm gc` then finds nothing that it must keep."""
        for runner in self.runners:
            self.sim.state.drop(runner.id)
        names = [path.name for path in self.runs]
        assert self.gc() == (0, dict.fromkeys(names, "removed"))

    def leftovers(self) -> list[str]:
        """Everything of this test that is still there, in words."""
        sockets = config.runtime_directory(Settings(), environ=self._environment())
        return [
            *(f"QEMU {pid}" for pid in self.machines),
            *(f"run {path.name}" for path in self.runs),
            *(f"socket {path.name}" for path in sockets.glob(f"{self.label}-*")),
            *(f"file {path}" for path in self.temporary.rglob("*")),
            *(f"disk {path}" for path in self.directory.rglob("overlay.qcow2")),
            *(f"registration {runner.name}" for runner in self.runners),
        ]

    def end_machines(self) -> None:
        """For a test that has failed: leave no machine behind."""
        for pid in self.machines:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _is_machine(self, cmdline: bytes) -> bool:
        program, _, words = cmdline.partition(b"\0")
        if program.endswith(b"firecracker"):
            return f"\0{self.label}-".encode() in words
        return f"guest={self.label}-".encode() in words

    def _scope(self) -> tuple[str, ...]:
        return (
            *("--github-org", "demo-org", "--github-api-url", self.sim.url),
            *("--github-client-id", self.sim.client_id, "--github-private-key", str(self.directory / "key.pem")),
            *("--state-dir", str(self.state)),
        )

    def _spec(self, changes: Mapping[str, object]) -> Path:
        spec: dict[str, object] = {
            "label": self.label,
            "image": guests.TINY,
            "arch": "x86_64",
            "cpu-cores": 1,
            "ram": "256M",
            "root-disk": "1G",
            "timeout-seconds": 100,
            "boot-timeout-seconds": 100,
        }
        spec.update({key.replace("_", "-"): value for key, value in changes.items()})
        text = json.dumps(spec)
        path = self.directory / f"spec-{hashlib.sha256(text.encode()).hexdigest()[:8]}.json"  # one spec, one service
        if not path.exists():  # another run may just be reading it
            path.write_text(text, encoding="utf-8")
        return path

    def _environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """No setting of the person who runs the tests is in force; coverage may follow the child."""
        own = {"HOME": str(self.directory), "TMPDIR": str(self.temporary), "XDG_CONFIG_DIRS": str(self.directory)}
        kept = {name: value for name, value in os.environ.items() if name == "PATH" or name.startswith("COV")}
        return {**kept, **own, "XDG_RUNTIME_DIR": str(self.directory / "r"), **(extra or {})}
