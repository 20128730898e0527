"""A real client of GitHub against the embedded one, for the tests of what stands above it."""

import contextlib
from collections.abc import Iterator

from ghrunner_vm.clock import Clock
from ghrunner_vm.github.auth import TokenAuth
from ghrunner_vm.github.client import GitHub
from ghrunner_vm.github.scope import Scope
from ghrunner_vm.simulator.server import Simulator

CLOCK = Clock(wall=lambda: 1_800_000_000.0, monotonic=lambda: 0.0, sleep=lambda _: None)
SCOPE = "org:demo-org"


@contextlib.contextmanager
def github_on_loopback(clock: Clock = CLOCK) -> Iterator[tuple[Simulator, GitHub]]:
    """No call waits: the client's pauses take no time."""
    with Simulator(clock=clock) as simulator:
        auth = TokenAuth(simulator.personal_token)
        with GitHub(simulator.url, Scope.parse(SCOPE), auth, clock=clock) as client:
            yield simulator, client
