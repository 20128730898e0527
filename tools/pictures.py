"""Draws the README's pictures from what the commands print: a real run, in a real machine, at the embedded GitHub.

python tools/pictures.py    # writes docs/pictures/*.svg
"""

import json
import os
import signal
import subprocess  # noqa: TID251 commands are shown as a person starts them
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

from ghrunner_vm.images.server import serve
from ghrunner_vm.simulator.server import Simulator
from ghrunner_vm.simulator.tiny import image

_PICTURES = Path(__file__).parents[1] / "docs/pictures"
_CACHE = Path(__file__).parents[1] / ".cache"
_GHVM = (sys.executable, "-m", "ghrunner_vm")
_JOB = "echo waiting; sleep 8; tail /dev/zero"
_SPEC = {
    "label": "ubuntu-24.04-vm",
    "image": image.NAME,
    "arch": "x86_64",
    "cpu-cores": 1,
    "ram": "256M",
    "root-disk": "1G",
    "timeout-seconds": 600,
}
# Without rich's own, which asks a server for its font.
_FORMAT = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>.{unique_id}-matrix {{ font-family: monospace; font-size: {char_height}px; line-height: {line_height}px; }}
.{unique_id}-title {{ font-family: sans-serif; font-size: 18px; }} {styles}</style>
<defs>{lines}</defs>{chrome}
<g transform="translate({terminal_x}, {terminal_y})">{backgrounds}<g class="{unique_id}-matrix">{matrix}</g></g>
</svg>
"""


def main() -> None:
    """Take the pictures of one run: while its job runs, and after the job took all memory."""
    _PICTURES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ghvm-pictures-") as work, Simulator() as simulator:
        place = Path(work)
        (place / "app.pem").touch(mode=0o600)
        (place / "app.pem").write_text(simulator.private_key_pem, encoding="utf-8")
        (place / "spec.json").write_text(json.dumps(_SPEC), encoding="utf-8")
        with serve(image.build(_CACHE), cache_dir=place / "served") as images:
            images.wait_ready(60)
            _perform(place, simulator, images.url)


def _perform(place: Path, simulator: Simulator, images: str) -> None:
    where = ["--state-dir", str(place / "state")]
    github = ["--github-org", "demo-org", "--github-api-url", simulator.url, "--github-client-id", simulator.client_id]
    common = [*where, *github, "--github-private-key", str(place / "app.pem"), "--images-server", images]
    simulator.state.enqueue(labels=["ubuntu-24.04-vm"], run=_JOB, name="build")
    argv = [*_GHVM, "run", str(place / "spec.json"), *common, "--images-cache-dir", str(place / "cache")]
    flags = ["--allow-emulation", "--allow-host-loopback", "--log-format", "json"]
    with subprocess.Popen([*argv, *flags], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as run:
        try:
            assert run.stderr is not None  # noqa: S101 it was asked for
            for line in run.stderr:
                if json.loads(line).get("step") == "busy":
                    _picture("ps", ["ps"], where)
        finally:
            run.send_signal(signal.SIGINT)
    _picture("why", ["why"], where)
    _picture("history", ["history"], where)


def _picture(name: str, words: list[str], where: list[str]) -> None:
    environment = {**os.environ, "FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": "140"}
    done = subprocess.run([*_GHVM, *words, *where], capture_output=True, text=True, check=True, env=environment)
    shown = Text.from_ansi(f"$ ghvm {' '.join(words)}\n{done.stdout.rstrip()}")
    width = max(line.cell_len for line in shown.split()) + 1
    console = Console(record=True, width=width, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115 a device
    console.print(shown, soft_wrap=True)
    (_PICTURES / f"{name}.svg").write_text(
        console.export_svg(title=f"ghvm {words[0]}", code_format=_FORMAT, unique_id=name), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
