"""A pull over loopback, beside its slowest stage and beside the shell pipeline that does the same.

    python benchmarks/pull.py [--gb 2] [--rounds 3] [--directory DIR]

Prints the best time of each in seconds, and ratios. Everything lies in one temporary directory, so on one disk, which
needs three times --gb. Needs curl, zstd and sha256sum, and a quiet machine.
"""

import argparse
import contextlib
import itertools
import os
import re
import subprocess  # noqa: TID251 what is measured are programs, and a pipeline of them
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ghrunner_vm.images.pull import pull
from ghrunner_vm.images.remote import ImageServer
from ghrunner_vm.images.store import ImageStore

NAME = "benchmark"
DURABLE = 'zstd -d -q "$1" -o "$2" && sync "$2"'
"""A pull does not end before its file is on the disk, so this is the stage it can be compared with."""
PIPELINE = 'curl -sSf "$1" | zstd -d | tee "$2" | sha256sum'


def main() -> None:
    """Measure in turns, so that a slow minute of the machine hits all of them."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="ghvm-benchmark-", dir=arguments.directory) as directory:
        home = Path(directory)
        _make_image(home / "images", arguments.gb)
        with _served(home) as url, ImageServer(url) as server:
            commit = server.latest()
            link = f"{url}/images/{commit}/{NAME}.qcow2.zst"
            compressed = next((home / "served").glob("*.zst"))
            contestants: dict[str, Callable[[Path], object]] = {
                "ghvm pull": lambda out: pull(ImageStore(out), server, NAME),
                "zstd -d": lambda out: _run("zstd", "-d", "-q", compressed, "-o", out / "disk"),
                "zstd -d, then sync": lambda out: _run("sh", "-c", DURABLE, "sh", compressed, out / "disk"),
                "curl | zstd -d | tee | sha256sum": lambda out: _run("sh", "-c", PIPELINE, "sh", link, out / "disk"),
            }
            times: dict[str, list[float]] = {name: [] for name in contestants}
            for _ in range(arguments.rounds):
                for name, call in contestants.items():
                    times[name].append(_timed(call, home))
    _report({name: min(seconds) for name, seconds in times.items()}, arguments.gb)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=2.0, help="size of the uncompressed disk, in 10^9 bytes")
    parser.add_argument("--rounds", type=int, default=3, help="the best of so many counts")
    parser.add_argument("--directory", type=Path, help="where to work; the disk below it is what is measured")
    return parser.parse_args()


def _make_image(directory: Path, gigabytes: float) -> None:
    """A disk made of what this system has in /usr, again and again if it takes more: real images compress like this."""
    directory.mkdir()
    size = int(gigabytes * 1e9)
    with (directory / f"{NAME}.qcow2").open("wb") as file:
        file.write(b"QFI\xfb\0\0\0\3")
        for source in itertools.cycle(sorted(path for path in Path("/usr").rglob("*") if _is_plain(path))):
            file.write(source.read_bytes()[: size - file.tell()])
            if file.tell() == size:
                return


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink() and os.access(path, os.R_OK)


@contextlib.contextmanager
def _served(home: Path) -> Iterator[str]:
    """The address of a `ghvm serve-images` in a process of its own, once everything is compressed."""
    command = ("serve-images", str(home / "images"), "--port=0", f"--cache-dir={home / 'served'}")
    with subprocess.Popen((sys.executable, "-m", "ghrunner_vm", *command), stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None  # noqa: S101 it is a pipe
            for line in process.stdout:
                if url := re.search(rb"--images-server (\S+)", line):
                    yield url[1].decode()
                    return
            raise SystemExit("serve-images did not start")
        finally:
            process.terminate()


def _timed(call: Callable[[Path], object], home: Path) -> float:
    with tempfile.TemporaryDirectory(dir=home) as out:
        os.sync()  # what others wrote must not be paid for here
        began = time.perf_counter()
        call(Path(out))
        return time.perf_counter() - began


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _report(best: dict[str, float], gigabytes: float) -> None:
    for name, seconds in best.items():
        print(f"{seconds:7.2f} s  {gigabytes / seconds:5.2f} GB/s  {name}")
    ours, *others = best.items()
    for name, seconds in others:
        print(f"{ours[1] / seconds:7.2f} x  {ours[0]} / {name}")


if __name__ == "__main__":
    main()
