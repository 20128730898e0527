"""The main job, shown: an embedded GitHub, a tiny real image, an image server, and a real `ghvm run`."""

import contextlib
import json
import os
import shlex
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from ghrunner_vm import process
from ghrunner_vm.clock import SYSTEM
from ghrunner_vm.errors import GhvmError, InfrastructureError
from ghrunner_vm.images.server import ImageService, serve
from ghrunner_vm.simulator.client import SimulatorClient
from ghrunner_vm.simulator.server import Simulator
from ghrunner_vm.simulator.tiny import image

LABEL = "demo"
JOB = "echo Hello from $(hostname); uname -sr; id -un; nproc; free -m | head -2"
_RUN_SECONDS = 900.0
_SPEC: Mapping[str, object] = {
    "label": LABEL,
    "image": image.NAME,
    "arch": "x86_64",
    "cpu-cores": 1,
    "ram": "512M",
    "root-disk": "1G",
    "timeout-seconds": 600,
    "boot-timeout-seconds": 120,
}


@dataclass(frozen=True)
class Moment:
    """One step of the show and the seconds since its beginning."""

    step: str
    words: str
    seconds: float


@dataclass(frozen=True)
class Summary:
    """What the show came to. `left` lists what is still there and should not be."""

    exit_code: int
    job_result: str | None
    seconds: float
    left: tuple[str, ...]


Tell = Callable[[Moment], None]


def perform(job: str, cache: Path, tell: Tell, log: Callable[[str], None], flags: Sequence[str] = ()) -> Summary:
    """Show the main job with `job` as the job's shell text. `tell` and `log` are called from several threads.

    `flags` are more of them for `ghvm run`.
    """
    began = SYSTEM.monotonic()

    def moment(step: str, words: str) -> None:
        tell(Moment(step, words, SYSTEM.monotonic() - began))

    moment("building", "the tiny image, if it is not there yet")
    bundle = image.build(cache)
    moment("built", "tiny image made of the distribution's kernel and busybox")
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ghvm-demo-")))
        sim = stack.enter_context(Simulator())
        moment("github", f"embedded GitHub answers at {sim.url}")
        images = stack.enter_context(serve(bundle, cache_dir=cache / "served"))
        images.wait_ready(60)
        moment("served", f"image server answers at {images.url}")
        client = stack.enter_context(SimulatorClient(sim.url))
        queued = client.enqueue([LABEL], job, "demo")
        moment("queued", f"job {queued.id} waits for a runner with the label {LABEL}")
        code = _run([*_arguments(work, sim, images), *flags], work, moment, lambda: _follow(client, queued.id, log))
        result = client.job(queued.id).conclusion
        left = (*_left_behind(work / "state"), *(f"runner {runner.name}" for runner in sim.state.runners()))
    return Summary(code, result, SYSTEM.monotonic() - began, left)


def _arguments(work: Path, sim: Simulator, images: ImageService) -> list[str]:
    spec, key = work / "demo.json", work / "app.pem"
    spec.write_text(json.dumps(_SPEC), encoding="utf-8")
    key.touch(mode=0o600)
    key.write_text(sim.private_key_pem, encoding="utf-8")
    return [
        *(sys.executable, "-m", "ghrunner_vm", "run", str(spec), "--log-format", "json"),
        *("--github-api-url", sim.url, "--github-org", "demo-org"),
        *("--runner-group-id", "1", "--github-client-id", sim.client_id, "--github-private-key", str(key)),
        *("--images-server", images.url, "--images-cache-dir", str(work / "images")),
        *("--state-dir", str(work / "state"), "--poll-seconds", "5"),
        *("--allow-emulation", "--egress-allow", f"127.0.0.1:{sim.port}"),
    ]


def _run(argv: list[str], work: Path, moment: Callable[[str, str], None], follow: Callable[[], None]) -> int:
    """The exit code of the run. Ctrl-C and SIGTERM are passed on to it, and it has the time it needs to end."""
    moment("command", "$ ghvm " + shlex.join(argv[3:]))
    # The person's own configuration is for their own runs.
    env = {"XDG_CONFIG_HOME": str(work), "XDG_CONFIG_DIRS": str(work)}
    with contextlib.ExitStack() as stack:
        reading, writing = stack.enter_context(_pipe())
        nowhere = stack.enter_context(open(os.devnull, "wb"))  # noqa: PTH123 a device
        child = stack.enter_context(process.start(argv, stderr=writing, stdout=nowhere.fileno(), env=env))
        os.close(writing)
        narration = threading.Thread(target=_narrate, args=(reading, moment), daemon=True)
        log = threading.Thread(target=follow, daemon=True)
        narration.start()
        log.start()
        with _passed_on(child):
            code = child.join(_RUN_SECONDS)
        narration.join(10)
        log.join(0 if code else 10)
    if code is None:
        raise InfrastructureError(f"the run did not end within {_RUN_SECONDS:.0f} s")
    return code


def _narrate(reading: TextIO, moment: Callable[[str, str], None]) -> None:
    for line in reading:
        try:
            said = json.loads(line)
            step, words = str(said.get("step", said["level"])), str(said["message"])
        except (ValueError, KeyError, AttributeError):
            step, words = "output", line.rstrip()
        moment(step, words)


def _follow(client: SimulatorClient, job: int, log: Callable[[str], None]) -> None:
    with contextlib.suppress(GhvmError):  # the run may end before its job, and the simulator with it
        for record in client.follow(job):
            for line in record.log:
                log(line)


@contextlib.contextmanager
def _passed_on(child: process.Child) -> Iterator[None]:
    before = {
        number: signal.signal(number, lambda received, _frame: child.send(received))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _pipe() -> Iterator[tuple[TextIO, int]]:
    reading, writing = os.pipe()
    with os.fdopen(reading, encoding="utf-8", errors="replace") as stream:
        yield stream, writing


def _left_behind(state: Path) -> Iterator[str]:
    runs = state / "runs"
    for entry in runs.iterdir() if runs.is_dir() else ():
        yield f"run {entry.name}"
