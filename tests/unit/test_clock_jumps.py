"""A host's clock that is set while a run lives: what counts is GitHub's word, and the clock that only goes forward."""

import pytest

from ghrunner_vm.clock import Clock
from ghrunner_vm.github.auth import AppAuth
from ghrunner_vm.github.client import GitHub
from ghrunner_vm.github.scope import Scope
from ghrunner_vm.lifecycle.registration import release_recorded
from ghrunner_vm.record import RunnerRecord
from ghrunner_vm.simulator.server import Simulator
from tests.unit.github_on_loopback import SCOPE

NOW = 1_800_000_000.0
HOUR = 3600.0


class Times:
    """The clocks of this host and of GitHub, in seconds since 1970."""

    def __init__(self) -> None:
        self.here = NOW
        self.there = NOW

    @property
    def clock(self) -> Clock:
        return Clock(wall=lambda: self.here, monotonic=lambda: 0.0, sleep=lambda _: None)

    @property
    def githubs(self) -> Clock:
        return Clock(wall=lambda: self.there, monotonic=lambda: 0.0, sleep=lambda _: None)


@pytest.mark.parametrize("jump", [-2 * HOUR, -60.0, 60.0], ids=["hours back", "a minute back", "a minute ahead"])
def test_a_clock_that_is_set_while_a_token_is_in_use(jump: float) -> None:
    """Set back by hours it makes a dead token look fresh: GitHub's 401 has it replaced once the clock is right."""
    times = Times()
    with Simulator(clock=times.githubs) as simulator:
        auth = AppAuth(simulator.client_id, simulator.private_key_pem.encode())
        with GitHub(simulator.url, Scope.parse(SCOPE), auth, clock=times.clock) as github:
            assert github.runner_named("one") is None
            times.here += jump
            assert github.runner_named("one") is None
            times.there += 2 * HOUR
            times.here = times.there
            assert github.runner_named("one") is None


@pytest.mark.parametrize(("later", "settled"), [(10.0, False), (400.0, True), (-10.0, False), (-400_000.0, True)])
def test_a_lost_answer_is_not_waited_for_by_a_clock_that_was_set_back(later: float, settled: bool) -> None:
    times = Times()
    with Simulator(clock=times.githubs) as simulator:
        auth = AppAuth(simulator.client_id, simulator.private_key_pem.encode())
        with GitHub(simulator.url, Scope.parse(SCOPE), auth, clock=times.clock) as github:
            lost = RunnerRecord.of(name="demo-0001", api_url=simulator.url, scope=SCOPE, asked=NOW)
            assert release_recorded(github, lost, NOW + later) is settled
