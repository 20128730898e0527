"""What each part of an image's outfit gains at boot: images of one root file system, each with one of them undone.

    python -m benchmarks.cuts ROOTFS.tar RUNNER.tar.gz [--initrd FILE] [--rounds 3] [--accel tcg|kvm]

`--initrd` is one that the distribution has made, to compare with ours. Prints the best time to "ready" of each.
"""

import argparse
import contextlib
import hashlib
import json
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.boot import boot
from benchmarks.host import host
from ghrunner_vm.clock import SYSTEM
from ghrunner_vm.images.build import bundle, outfit
from ghrunner_vm.images.build.files import Files
from ghrunner_vm.images.build.outfit import Configuration
from ghrunner_vm.images.build.runner import RunnerTarball
from ghrunner_vm.images.catalog import QUIET_SECONDS

_SIZE = 4 << 30
_LATE = b"""[Unit]
Wants=network-online.target
After=network-online.target

[Service]
ExecStart=/usr/lib/ghvm/agent

[Install]
WantedBy=multi-user.target
"""


def _late(files: Files) -> None:
    """The agent as an ordinary service that waits for the network."""
    files.put("etc/systemd/system/ghvm-agent.service", _LATE)
    files.tree.remove("etc/systemd/system/sysinit.target.wants/ghvm-agent.service")
    files.tree.remove("etc/systemd/system/systemd-networkd-wait-online.service")
    wants = "/usr/lib/systemd/system/systemd-networkd-wait-online.service"
    files.link("etc/systemd/system/network-online.target.wants/systemd-networkd-wait-online.service", wants)
    files.link("etc/systemd/system/multi-user.target.wants/ghvm-agent.service", "../ghvm-agent.service")


def _unmasked(files: Files) -> None:
    """All units of the distribution, Docker's daemon among them."""
    for name in files.names("etc/systemd/system"):
        node = files.tree.find(f"etc/systemd/system/{name}", follow=False)
        if node is not None and node.target == b"/dev/null":
            files.tree.remove(f"etc/systemd/system/{name}")
    files.link("etc/systemd/system/multi-user.target.wants/docker.service", "/usr/lib/systemd/system/docker.service")


def _generators(files: Files) -> None:
    for name in files.names("etc/systemd/system-generators"):
        files.tree.remove(f"etc/systemd/system-generators/{name}")


def _nothing(files: Files) -> None:
    """The outfit as it is."""


def _everything(files: Files) -> None:
    _late(files)
    _unmasked(files)
    _generators(files)


VARIANTS: dict[str, Callable[[Files], None]] = {
    "as-built": _nothing,
    "generators-run": _generators,
    "units-unmasked": _unmasked,
    "agent-late": _late,
    "agent-late-units-generators": _everything,
}


def main() -> None:
    """Measure in turns, so that a slow moment of the machine hits all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tar", type=Path)
    parser.add_argument("runner", type=Path)
    parser.add_argument("--initrd", type=Path)
    parser.add_argument("--rounds", type=int, default=3, help="the best of so many counts")
    parser.add_argument("--accel", default="tcg")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ghvm-benchmark-") as name:
        images = Path(name)
        for variant, change in VARIANTS.items():
            _build(arguments.tar, arguments.runner, images, variant, change)
        if arguments.initrd is not None:
            _build(arguments.tar, arguments.runner, images, "initrd-of-distribution", _nothing, arguments.initrd)
        threading.Event().wait(QUIET_SECONDS)
        names = sorted(path.stem for path in images.glob("*.json"))
        best = dict.fromkeys(names, float("inf"))
        with host(images) as here:
            for image_name in names:
                here.pull(image_name)
            for _ in range(arguments.rounds):
                for image_name in names:
                    best[image_name] = min(best[image_name], boot(here, image_name, 2, arguments.accel))
    for image_name, seconds in sorted(best.items(), key=lambda item: item[1]):
        print(f"{seconds:6.2f} s  {seconds - best['as-built']:+6.2f} s  {image_name}")


def _build(
    tar: Path, runner: Path, output: Path, name: str, change: Callable[[Files], None], initrd: Path | None = None
) -> None:
    tarball = RunnerTarball("0.0.0", SYSTEM.today(), runner, "", verified=False)
    wanted = bundle.Wanted(name, "x86_64", _SIZE, ("qemu",), output)
    with _changed(change), tar.open("rb") as file:
        bundle.build(file, wanted, tarball, Configuration(), progress=lambda _: None, tell=print)
    if initrd is not None:
        _replace_initrd(output / f"{name}.json", initrd)


@contextlib.contextmanager
def _changed(change: Callable[[Files], None]) -> Iterator[None]:
    """The last step of the outfit undoes something."""
    describe = outfit.describe

    def changed(files: Files, *more: object) -> None:
        describe(files, *more)  # type: ignore[arg-type]
        change(files)

    outfit.describe = changed
    try:
        yield
    finally:
        outfit.describe = describe


def _replace_initrd(manifest: Path, initrd: Path) -> None:
    described = json.loads(manifest.read_text(encoding="utf-8"))
    name, content = described["boot"]["initrd"], initrd.read_bytes()
    (manifest.parent / name).write_bytes(content)
    described["artifacts"][name].update(size=len(content), sha256=hashlib.sha256(content).hexdigest())
    manifest.write_text(json.dumps(described), encoding="utf-8")


if __name__ == "__main__":
    main()
