"""How long the command line takes to answer: `ghvm --help` beside what Python and click alone need.

    python -m benchmarks.startup [--rounds 20]

Prints the best time of each in milliseconds, and ratios.
"""

import argparse
import subprocess  # noqa: TID251 what is measured are programs
import sys
import time

from benchmarks.bytecode import compiled

CONTESTANTS = {
    "ghvm --help": [sys.executable, "-m", "ghrunner_vm", "--help"],
    "python -c 'import click'": [sys.executable, "-c", "import click"],
    "python -c pass": [sys.executable, "-c", "pass"],
}


def main() -> None:
    """Measure in turns, so that a slow moment of the machine hits all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="the best of so many counts")
    best = dict.fromkeys(CONTESTANTS, float("inf"))
    rounds = parser.parse_args().rounds
    compiled()
    for _ in range(rounds):
        for name, argv in CONTESTANTS.items():
            best[name] = min(best[name], _timed(argv))
    ours, *others = best.items()
    for name, seconds in best.items():
        print(f"{seconds * 1000:7.0f} ms  {name}")
    for name, seconds in others:
        print(f"{ours[1] / seconds:7.2f} x   {ours[0]} / {name}")


def _timed(argv: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
