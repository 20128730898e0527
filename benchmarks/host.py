"""What the benchmarks of `ghvm run` share: an embedded GitHub, an image server, and the command line."""

import contextlib
import json
import subprocess  # noqa: TID251 what is measured is a program
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bytecode import compiled
from ghrunner_vm.images.pull import pull
from ghrunner_vm.images.remote import ImageServer
from ghrunner_vm.images.server import serve
from ghrunner_vm.images.store import ImageStore
from ghrunner_vm.simulator.server import Simulator
from ghrunner_vm.simulator.tiny import image

LABEL = "benchmark"


@dataclass(frozen=True)
class Host:
    """A directory with everything that a run needs, and a GitHub."""

    directory: Path
    images: Path
    sim: Simulator
    images_url: str

    def pull(self, image_name: str = image.NAME) -> None:
        """Have the image in the cache."""
        with ImageServer(self.images_url) as server:
            pull(ImageStore(self.directory / "cache"), server, image_name)

    @contextlib.contextmanager
    def run(self, image_name: str = image.NAME, *flags: str, **spec: object) -> Iterator[subprocess.Popen[str]]:
        """A `ghvm run` that narrates JSON lines on stderr; it is killed at the end of the block."""
        argv = [sys.executable, "-m", "ghrunner_vm", "run", str(self._spec(image_name, spec)), *self._options(), *flags]
        with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            try:
                yield process
            finally:
                process.kill()

    def _options(self) -> tuple[str, ...]:
        return (
            *("--github-org", "demo-org", "--github-api-url", self.sim.url),
            *("--github-client-id", self.sim.client_id, "--github-private-key", str(self.directory / "key.pem")),
            *("--images-server", self.images_url, "--images-cache-dir", str(self.directory / "cache")),
            *("--state-dir", str(self.directory / "state"), "--log-format", "json"),
            *("--accel", "tcg", "--allow-emulation", "--allow-host-loopback"),
        )

    def _spec(self, image_name: str, more: Mapping[str, object]) -> Path:
        spec = {"label": LABEL, "image": image_name, "arch": "x86_64", "cpu-cores": 1, "ram": "256M"}
        path = self.directory / f"{image_name}.json"
        path.write_text(json.dumps({**spec, "root-disk": "8G", "timeout-seconds": 600, **more}), encoding="utf-8")
        return path


@contextlib.contextmanager
def host(images: Path | None = None) -> Iterator[Host]:
    """A host with the images of a directory; the tiny one if none is given. Nothing is left of it."""
    compiled()
    with tempfile.TemporaryDirectory(prefix="ghvm-benchmark-") as name:
        directory = Path(name)
        images = images or image.build(directory / "built")
        with Simulator() as sim, serve(images, cache_dir=directory / "served") as service:
            service.wait_ready(600)
            key = directory / "key.pem"
            key.touch(mode=0o600)
            key.write_text(sim.private_key_pem, encoding="utf-8")
            yield Host(directory, images, sim, service.url)


def told(process: subprocess.Popen[str], step: str) -> Mapping[str, object]:
    """The facts of a step, once the run tells of it."""
    assert process.stderr is not None  # noqa: S101 it is a pipe
    for line in process.stderr:
        facts: dict[str, object] = json.loads(line)
        if facts.get("step") == step:
            return facts
    raise SystemExit(f"the run ended before it told of {step}")
