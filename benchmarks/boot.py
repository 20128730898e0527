"""From the start of the machine to "ready" from its agent: images of a directory beside the tiny one.

    python -m benchmarks.boot DIRECTORY NAME... [--rounds 5] [--cores 2] [--accel tcg|kvm]

Prints the best time of each in seconds, and its ratio to that of the kernel with busybox alone.
"""

import argparse
import shutil
import tempfile
import threading
import time
from pathlib import Path

from benchmarks.host import Host, host, told
from ghrunner_vm.images.catalog import QUIET_SECONDS
from ghrunner_vm.simulator.tiny import image


def main() -> None:
    """Measure in turns, so that a slow moment of the machine hits all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--rounds", type=int, default=5, help="the best of so many counts")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--accel", default="tcg")
    arguments = parser.parse_args()
    best = dict.fromkeys((image.NAME, *arguments.names), float("inf"))
    with tempfile.TemporaryDirectory(prefix="ghvm-benchmark-") as name:
        images = _images(Path(name), arguments.directory)
        with host(images) as here:
            for image_name in best:
                here.pull(image_name)
            for _ in range(arguments.rounds):
                for image_name in best:
                    found = boot(here, image_name, arguments.cores, arguments.accel)
                    best[image_name] = min(best[image_name], found)
    for image_name, seconds in best.items():
        print(f"{seconds:6.2f} s  {seconds / best[image.NAME]:5.2f} x  {image_name}")


def boot(here: Host, image_name: str, cores: int, accel: str) -> float:
    """Seconds between the two lines of ghvm's narration."""
    with here.run(image_name, "--accel", accel, **{"cpu-cores": cores, "ram": "1G"}) as process:
        told(process, "launched")
        began = time.monotonic()
        told(process, "ready")
        return time.monotonic() - began


def _images(directory: Path, given: Path) -> Path:
    """Those of the directory, and the tiny one."""
    images = directory / "images"
    shutil.copytree(image.build(directory / "tiny"), images)
    for file in given.iterdir():
        if not file.name.startswith("."):
            shutil.copyfile(file, images / file.name)
    threading.Event().wait(QUIET_SECONDS)  # until then a server takes them for unfinished
    return images


if __name__ == "__main__":
    main()
