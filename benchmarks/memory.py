"""What a supervising `ghvm run` weighs while a job runs.

    python -m benchmarks.memory [--runs 1]

Prints, for each of so many runs at once, its PSS (shared pages divided among those who share them) and its RSS (as if
it shared nothing) in MB, from /proc/PID/smaps_rollup. The embedded GitHub is a Python process, too, and
shares its pages.
"""

import argparse
import contextlib
import re
import subprocess  # noqa: TID251 what is measured is a program
from pathlib import Path

from benchmarks.host import LABEL, host, told


def main() -> None:
    """All runs are busy when they are weighed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1, help="how many runs at once")
    count = parser.parse_args().runs
    with host() as here, contextlib.ExitStack() as stack:
        here.pull()
        jobs = [here.sim.state.enqueue(labels=[LABEL], run="sleep 600") for _ in range(count)]
        runs: list[subprocess.Popen[str]] = [stack.enter_context(here.run()) for _ in jobs]
        for run in runs:
            told(run, "busy")
        for run in runs:
            rollup = Path(f"/proc/{run.pid}/smaps_rollup").read_text(encoding="ascii")
            found = re.findall(r"^(Pss|Rss):\s+(\d+) kB", rollup, re.MULTILINE)
            megabytes = {name: int(kib) * 1024 / 1e6 for name, kib in found}
            print(f"{megabytes['Pss']:6.1f} MB PSS  {megabytes['Rss']:6.1f} MB RSS")


if __name__ == "__main__":
    main()
