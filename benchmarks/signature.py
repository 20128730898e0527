"""What it takes to verify an image's signature, for a run with trusted keys: time and memory.

    python -m benchmarks.signature [--rounds 10]

Each round is a process that has loaded what `ghvm run` loads, verifies one signature, and verifies it again. Prints the
best times in milliseconds and the memory that the first one added (PSS, in MB).
"""

import argparse
import json
import subprocess  # noqa: TID251 what is measured are fresh processes
import sys

from ghrunner_vm.images.signing import SigningKey

MANIFEST_BYTES = 30_000
"""As long as a manifest that lists 800 packages."""
ROUND = """
import json, sys, time
from ghrunner_vm.commands import supervise
from ghrunner_vm.images.keys import PublicKey
from ghrunner_vm.images.signature import SignedManifest, verified

def pss():
    with open("/proc/self/smaps_rollup") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Pss:"))

key, signed = PublicKey.parse(sys.argv[1]), SignedManifest(bytes(int(sys.argv[2])), sys.argv[3].encode())
before, times = pss(), [time.perf_counter()]
for _ in range(2):
    verified("image", signed, [key])
    times.append(time.perf_counter())
print(json.dumps([times[1] - times[0], times[2] - times[1], pss() - before]))
"""


def main() -> None:
    """The best of several rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="the best of so many counts")
    rounds = [_round(SigningKey.generate()) for _ in range(parser.parse_args().rounds)]
    first, again, memory = (min(values) for values in zip(*rounds, strict=True))
    print(f"{first * 1000:7.1f} ms  the first signature, with the library that verifies it")
    print(f"{again * 1000:7.2f} ms  the second")
    print(f"{memory / 1024:7.1f} MB  more memory")


def _round(key: SigningKey) -> tuple[float, float, float]:
    signature = key.sign(1, bytes(MANIFEST_BYTES)).to_json().decode()
    argv = [sys.executable, "-c", ROUND, str(key.public), str(MANIFEST_BYTES), signature]
    done = subprocess.run(argv, check=True, capture_output=True, text=True)
    first, again, memory = json.loads(done.stdout)
    return first, again, memory


if __name__ == "__main__":
    main()
