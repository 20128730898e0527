"""Troubles with GitHub in the life of a real machine: no job is lost, nothing is left, the exit code tells."""

import asyncio
import signal
from collections.abc import Iterator
from dataclasses import replace

import pytest

from ghrunner_vm import app, config
from ghrunner_vm.config import Settings
from ghrunner_vm.console import Console
from ghrunner_vm.errors import ExitCode
from ghrunner_vm.github.connect import github_client
from ghrunner_vm.lifecycle import session
from ghrunner_vm.lifecycle.outcome import Outcome
from ghrunner_vm.simulator.faults import Rule
from ghrunner_vm.spec import Spec
from tests import guests
from tests.lab import Lab
from tests.troubles import documented, shows

PAGE = documented()
LOOK = Rule(method="GET", path="/orgs/*/actions/runners/*")
"""Changes nothing, and lets a test wait until GitHub was asked."""


@pytest.fixture
def troubled(lab: Lab) -> Iterator[Lab]:
    """A lab whose GitHub behaves again at the end."""
    yield lab
    lab.sim.troubles.end()


@shows("token-expires", "stateless-token-expires")
@pytest.mark.parametrize(("name", "dots"), [("token-expires", 0), ("stateless-token-expires", 2)])
def test_a_token_that_expires_in_the_middle_of_a_job_is_replaced(troubled: Lab, name: str, dots: int) -> None:
    with troubled.gate() as gate, troubled.run("--poll-seconds", "1") as run:
        job = troubled.job(gate.command)
        gate.wait_reached()
        troubled.sim.trouble(name)
        troubled.sim.faults.add(LOOK)
        troubled.sim.faults.wait_used(3)  # with the old token, with the new one, and the next look
        assert {token.text.count(".") for token in troubled.sim.state.identity.tokens()} == {dots}
        gate.open()
        assert run.wait_exit() == PAGE[name].exit_code
    assert (run.outcome, troubled.finished(job).conclusion) == ("job-done", "success")
    assert "trouble" not in run.steps


@shows("says-idle")
def test_a_job_that_github_denies_is_finished(troubled: Lab) -> None:
    with troubled.gate() as gate, troubled.run("--poll-seconds", "1") as run:
        job = troubled.job(gate.command)
        gate.wait_reached()
        run.wait("busy")
        troubled.sim.trouble("says-idle")
        troubled.sim.faults.add(LOOK)
        troubled.sim.faults.wait_used(2)  # the first of the two was heard
        run.send(signal.SIGTERM)
        run.wait("drain")
        gate.open()
        assert run.wait_exit() == PAGE["says-idle"].exit_code
    assert (run.outcome, troubled.finished(job).conclusion) == ("job-done", "success")


@shows("says-busy")
def test_a_job_that_github_invents_holds_up_the_drain_until_it_is_taken_back(troubled: Lab) -> None:
    with troubled.run("--poll-seconds", "1") as run:
        run.wait("idle")
        troubled.sim.trouble("says-busy")
        assert run.wait("busy").message == PAGE["says-busy"].says
        run.send(signal.SIGTERM)
        run.wait("drain")
        troubled.sim.troubles.end()
        assert run.wait_exit() == PAGE["says-busy"].exit_code
    assert run.outcome == "drained"


@shows("idle-removed", "outdated-runner")
@pytest.mark.parametrize(("name", "outcome"), [("idle-removed", Outcome.NO_JOB), ("outdated-runner", Outcome.OUTDATED)])
def test_a_runner_that_the_service_sends_away(troubled: Lab, name: str, outcome: Outcome) -> None:
    troubled.sim.trouble(name)
    with troubled.run() as run:
        assert run.wait_exit() == PAGE[name].exit_code == outcome.exit_code
    assert run.outcome == outcome.label
    assert run.wait("ended").message == PAGE[name].says


@shows("ghost")
def test_a_ghost_is_powered_off(troubled: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, since the two minutes after which a runner counts as vanished are no setting."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(troubled.directory / "r"))
    troubled.sim.trouble("ghost")
    settings, described = _settings(troubled), _spec(troubled)
    plan = app.plan(settings, described)
    plan = replace(plan, policy=replace(plan.policy, vanished=0.5))
    console = Console()
    github = github_client(settings, console.warn)
    with app.means(settings, described, github, console.progress, console.warn) as means:
        ended = asyncio.run(session.run(plan, means, lambda *_, **__: None))
    assert ended.outcome is Outcome.VANISHED
    assert (ended.outcome.words, ended.outcome.exit_code) == (PAGE["ghost"].says, PAGE["ghost"].exit_code)


def _settings(lab: Lab) -> Settings:
    flags = {
        "github_org": lab.sim.state.org,
        "github_api_url": lab.sim.url,
        "github_client_id": lab.sim.client_id,
        "github_private_key": lab.directory / "key.pem",
        "state_dir": lab.state,
        "images_server": lab.images_url,
        "images_cache_dir": lab.cache,
        "accel": "tcg",
        "poll_seconds": 1,
    }
    return config.load({**flags, "allow_emulation": True, "allow_host_loopback": True}, environ={}, files=[])


def _spec(lab: Lab) -> Spec:
    described = {"label": lab.label, "image": guests.TINY, "arch": "x86_64", "timeout-seconds": 60}
    return Spec.model_validate({**described, "cpu-cores": 1, "ram": "256M", "root-disk": "1G"})


@shows("removal-refused")
def test_a_runner_that_counts_as_busy_after_its_death_is_left_to_gc(troubled: Lab) -> None:
    with troubled.run() as run:
        run.wait("idle")
        troubled.sim.trouble("removal-refused")
        run.send(signal.SIGINT)
        assert run.wait_exit() == PAGE["removal-refused"].exit_code == ExitCode.INTERRUPTED
    assert run.wait("gone").message == PAGE["removal-refused"].says
    (path,) = troubled.runs
    assert troubled.gc() == (ExitCode.INFRASTRUCTURE, {path.name: "pending"})
    troubled.sim.troubles.end()
    assert troubled.gc() == (ExitCode.OK, {path.name: "removed"})


def test_no_answer_of_github_ends_a_run_that_has_a_job(troubled: Lab) -> None:
    with troubled.gate() as gate, troubled.run("--poll-seconds", "1") as run:
        job = troubled.job(gate.command)
        gate.wait_reached()
        for name in ("garbage", "limit-429-secondary-retry-after"):
            troubled.sim.faults.clear()
            troubled.sim.trouble(name)
            troubled.sim.faults.wait_used(1)
        gate.open()
        assert run.wait_exit() == ExitCode.OK
    assert (run.outcome, troubled.finished(job).conclusion) == ("job-done", "success")
    troubles = [line.message for line in run.lines if line.step == "trouble"]
    assert any(PAGE["garbage"].says in message for message in troubles)
    assert any(PAGE["limit-429-secondary-retry-after"].says in message for message in troubles)
    troubled.sim.troubles.end()
    troubled.let_go_and_collect()


@pytest.mark.parametrize(
    ("name", "outcome"), [("lost-response", Outcome.MINT_FAILED), ("unknown-group", Outcome.MINT_REFUSED)]
)
def test_a_registration_that_fails_ends_the_run_without_a_trace(troubled: Lab, name: str, outcome: Outcome) -> None:
    troubled.sim.trouble(name)
    with troubled.run() as run:
        assert run.wait_exit() == PAGE[name].exit_code == outcome.exit_code
    assert run.outcome == outcome.label
    assert PAGE[name].says in str(run.lines[-1].facts["details"])


def test_a_run_tells_what_it_asked_and_what_is_left(troubled: Lab) -> None:
    troubled.job("true")
    with troubled.run() as run:
        run.wait_exit()
    requests = run.result["github-requests"]
    assert isinstance(requests, dict)
    assert requests["limit"] == troubled.sim.rates.limit
    assert 0 < requests["made"] <= 20
    told = f"GitHub counted {requests['made']} requests; {requests['remaining']} of {requests['limit']} are left"
    assert any(line.message == told for line in run.lines)
