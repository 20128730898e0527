"""From `ghvm run` to the start of QEMU's process, with a warm cache: for a small image, and for one made larger.

    python -m benchmarks.launch [--gb 2] [--rounds 10]

Prints the best time of each in milliseconds with the round trips to a GitHub on loopback in it, and their ratio. The
kernel's clock for the start of processes ticks every 10 ms.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess  # noqa: TID251 qemu-img makes the large image
import tempfile
from pathlib import Path

from benchmarks.host import Host, host, told
from ghrunner_vm.process import start_time
from ghrunner_vm.simulator.tiny import image

LARGE = "large"


def main() -> None:
    """Measure in turns, so that a slow moment of the machine hits all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=int, default=2, help="how many GiB larger the large image is")
    parser.add_argument("--rounds", type=int, default=10, help="the best of so many counts")
    arguments = parser.parse_args()
    best = dict.fromkeys((image.NAME, LARGE), float("inf"))
    with tempfile.TemporaryDirectory(prefix="ghvm-benchmark-") as name, host(_images(Path(name), arguments.gb)) as here:
        for image_name in best:
            here.pull(image_name)
        for _ in range(arguments.rounds):
            for image_name in best:
                best[image_name] = min(best[image_name], _launch(here, image_name))
    for image_name, seconds in best.items():
        print(f"{seconds * 1000:7.0f} ms  {image_name}")
    print(f"{best[LARGE] / best[image.NAME]:7.2f} x   {LARGE} / {image.NAME}")


def _launch(here: Host, image_name: str) -> float:
    """Seconds between the start of ghvm's process and that of QEMU's."""
    with here.run(image_name) as process:
        vmm = start_time(int(str(told(process, "launched")["pid"])))
        began = start_time(process.pid)
    if vmm is None or began is None:
        raise SystemExit("QEMU ended at once")
    return (vmm - began) / os.sysconf("SC_CLK_TCK")


def _images(directory: Path, gigabytes: int) -> Path:
    """The tiny image, and a copy of it whose disk has so many GiB more, which are there and not only promised."""
    tiny = image.build(directory / "tiny")
    images = directory / "images"
    shutil.copytree(tiny, images)
    manifest = (tiny / f"{image.NAME}.json").read_text(encoding="utf-8").replace(image.NAME, LARGE)
    for suffix in ("vmlinuz", "initrd", "qcow2"):
        shutil.copyfile(tiny / f"{image.NAME}.{suffix}", images / f"{LARGE}.{suffix}")
    resize = ["qemu-img", "resize", "-q", "--preallocation=full", str(images / f"{LARGE}.qcow2"), f"+{gigabytes}G"]
    subprocess.run(resize, check=True)
    described = json.loads(manifest)
    for name, artifact in described["artifacts"].items():
        with (images / name).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        artifact.update(size=(images / name).stat().st_size, sha256=digest)
    (images / f"{LARGE}.json").write_text(json.dumps(described), encoding="utf-8")
    for file in images.iterdir():
        os.utime(file, (0, 0))  # a server leaves alone what seems to be written to
    return images


if __name__ == "__main__":
    main()
