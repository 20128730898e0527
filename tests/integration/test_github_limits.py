"""How the client of GitHub keeps to the rate limits."""

from collections.abc import Iterator

import pytest

from ghrunner_vm.github.auth import TokenAuth
from ghrunner_vm.github.client import GitHub
from ghrunner_vm.github.limits import RateLimited
from ghrunner_vm.github.scope import Scope
from ghrunner_vm.simulator.faults import Rule
from ghrunner_vm.simulator.server import Simulator
from tests.integration.virtual_clock import VirtualTime

ORG = Scope.parse("org:demo-org")
LIST = "*/actions/runners"


@pytest.fixture
def time() -> VirtualTime:
    return VirtualTime()


@pytest.fixture
def sim(time: VirtualTime) -> Iterator[Simulator]:
    with Simulator(clock=time.clock) as simulator:
        yield simulator


@pytest.fixture
def github(sim: Simulator, time: VirtualTime) -> Iterator[GitHub]:
    with GitHub(sim.url, ORG, TokenAuth(sim.personal_token), clock=time.clock) as client:
        yield client


def test_a_rate_limit_is_raised_at_once(sim: Simulator, github: GitHub, time: VirtualTime) -> None:
    reset = {"x-ratelimit-limit": "5", "x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int(time.now) + 90)}
    sim.faults.add(Rule(path=LIST, status=403, headers=reset, count=1))
    with pytest.raises(RateLimited) as caught:
        github.runner_named("ghvm-1")
    assert caught.value.retry_after == 90
    assert time.slept == []
    assert github.budget is not None
    assert github.budget.remaining == 0


def test_nobody_is_asked_while_github_wants_silence(sim: Simulator, github: GitHub, time: VirtualTime) -> None:
    sim.faults.add(Rule(path=LIST, status=429, headers={"retry-after": "30"}, count=1))
    for left in (30, 20, 10):
        with pytest.raises(RateLimited) as caught:
            github.runner_named("ghvm-1")
        assert caught.value.retry_after == left
        time.now += 10
    before = github.requests_made
    assert github.runner_named("ghvm-1") is None
    assert github.requests_made == before + 1


def test_a_limit_without_a_time_means_a_pause_that_grows(sim: Simulator, github: GitHub, time: VirtualTime) -> None:
    sim.faults.add(Rule(path=LIST, status=403, body='{"message": "a secondary rate limit"}', count=7))
    pauses = []
    for _ in range(7):
        with pytest.raises(RateLimited) as caught:
            github.runner_named("ghvm-1")
        pauses.append(caught.value.retry_after)
        time.now += caught.value.retry_after
    assert pauses == [60, 120, 240, 480, 960, 960, 960]
    github.runner_named("ghvm-1")
    sim.faults.add(Rule(path=LIST, status=403, body='{"message": "a secondary rate limit"}'))
    with pytest.raises(RateLimited) as caught:
        github.runner_named("ghvm-1")
    assert caught.value.retry_after == 60


def test_a_limit_that_is_nearly_used_up_is_warned_of_once_a_window(sim: Simulator, time: VirtualTime) -> None:
    warnings: list[str] = []
    sim.rates.limit = 20
    with GitHub(sim.url, ORG, TokenAuth(sim.personal_token), clock=time.clock, warn=warnings.append) as github:
        for _ in range(18):
            github.runner_named("ghvm-1")
        assert warnings == []
        for _ in range(2):
            github.runner_named("ghvm-1")
        (warning,) = warnings
        assert "less than a tenth of GitHub's rate limit is left: 1 of 20 requests for the next 1 h 0 min" in warning
        time.now += 3600
        for _ in range(20):
            github.runner_named("ghvm-1")
        assert len(warnings) == 2
