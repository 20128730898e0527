"""Each trouble that ends a run before its machine boots or at its registration: one error, the exit code, no trace."""

import asyncio
import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from ghrunner_vm import process, runs
from ghrunner_vm.errors import ExitCode, GhvmError
from ghrunner_vm.github.auth import AppAuth
from ghrunner_vm.github.client import GitHub
from ghrunner_vm.github.scope import Scope
from ghrunner_vm.github.transport import Timeouts, Unreachable
from ghrunner_vm.lifecycle import events as ev
from ghrunner_vm.lifecycle.registration import Registration
from ghrunner_vm.record import ProcessRecord, RunRecord
from ghrunner_vm.runs import RunDirectory
from ghrunner_vm.simulator.server import Simulator
from ghrunner_vm.simulator.trouble import CATALOGUE
from tests.integration import test_run_github_troubles
from tests.integration.virtual_clock import VirtualTime
from tests.lab import Lab
from tests.troubles import SHOWN, documented, shows

NOBODY = "http://127.0.0.1:1"
"""An address where nothing listens: ports this low are never handed out."""
PAGE = documented()
LIMITS = [name for name in CATALOGUE if name.startswith("limit-")]
AT_ONCE = ["wrong-client-id", "bad-key", "host-clock-ahead", "host-clock-behind", "not-installed", "suspended"]
AT_ONCE += ["no-permission", "unknown-group", "garbage", "outage", "cut", *LIMITS]
AT_REGISTRATION = ["lost-response", "name-clash", "group-full"]


@pytest.fixture
def time() -> VirtualTime:
    return VirtualTime()


@pytest.fixture(scope="module")
def any_simulator() -> Iterator[Simulator]:
    with Simulator() as simulator:
        yield simulator


@pytest.fixture
def bare_lab(tmp_path: Path, any_simulator: Simulator) -> Iterator[Lab]:
    """A lab without images: no run gets as far as to need one."""
    (tmp_path / "tmp").mkdir()
    (tmp_path / "key.pem").touch(mode=0o600)
    (tmp_path / "key.pem").write_text(any_simulator.private_key_pem, encoding="utf-8")
    lab = Lab(tmp_path, f"t{secrets.token_hex(4)}", any_simulator, NOBODY, tmp_path / "cache")
    yield lab
    any_simulator.troubles.end()
    assert lab.leftovers() == []


@shows(*AT_ONCE)
@pytest.mark.parametrize("name", AT_ONCE)
def test_a_run_ends_at_once(bare_lab: Lab, name: str) -> None:
    bare_lab.sim.trouble(name)
    with bare_lab.run("--runner-group-id", "2") as run:
        assert run.wait_exit() == PAGE[name].exit_code
    (error,) = [line for line in run.lines if line.facts.get("level") == "error"]
    assert PAGE[name].says in error.message
    assert error.facts["resolution"]
    assert "image" not in run.steps


def test_a_private_key_that_every_user_can_read(bare_lab: Lab) -> None:
    (bare_lab.directory / "key.pem").chmod(0o644)
    with bare_lab.run() as run:
        assert run.wait_exit() == ExitCode.PERMANENT
    assert "every user can read the private key" in run.lines[-1].message


def client(sim: Simulator, time: VirtualTime, **timeouts: float) -> GitHub:
    """A client whose pauses take no time."""
    auth = AppAuth(sim.client_id, sim.private_key_pem.encode())
    limits = Timeouts(**timeouts) if timeouts else None
    return GitHub(sim.url, Scope.parse("org:demo-org"), auth, clock=time.clock, timeouts=limits)


@shows("error-burst", "slow")
@pytest.mark.parametrize("name", ["error-burst", "slow"])
def test_it_is_survived(time: VirtualTime, name: str) -> None:
    with Simulator(clock=time.clock) as sim:
        sim.trouble(name)
        with client(sim, time) as github:
            github.check("one", 2)
        assert PAGE[name].exit_code == ExitCode.OK


@shows("hang")
def test_a_github_that_never_answers_has_a_deadline(time: VirtualTime) -> None:
    with Simulator(clock=time.clock) as sim, client(sim, time, read=0.1) as github:
        sim.trouble("hang")
        with pytest.raises(Unreachable) as caught:
            github.check("one", 1)
    assert PAGE["hang"].says in caught.value.brief
    assert caught.value.exit_code == PAGE["hang"].exit_code


@contextlib.contextmanager
def registration(directory: Path, github: GitHub, time: VirtualTime) -> Iterator[tuple[RunDirectory, Registration]]:
    supervisor = ProcessRecord.of(pid=2, started=1)
    fields = {"boot_id": process.boot_id(), "supervisor": supervisor, "label": "demo", "image": "ubuntu"}
    told: list[GhvmError] = []
    with runs.create(directory, RunRecord.of(id="demo-0001", since=1.0, created=1.0, **fields)) as run:
        yield run, Registration(github, run, ["demo"], 1, told.append, time.clock)


@shows(*AT_REGISTRATION)
@pytest.mark.parametrize("name", AT_REGISTRATION)
def test_a_registration_fails(tmp_path: Path, time: VirtualTime, name: str) -> None:
    with Simulator(clock=time.clock) as sim, client(sim, time) as github:
        sim.trouble(name)
        with registration(tmp_path, github, time) as (run, wanted):
            failed = asyncio.run(wanted.mint())
            assert isinstance(failed, ev.MintFailed)
            assert failed.permanent is (PAGE[name].exit_code == ExitCode.PERMANENT)
            assert wanted.refusal is not None
            assert PAGE[name].says in f"{wanted.refusal.brief}"
            assert wanted.refusal.resolution
            asyncio.run(wanted.release())
            assert run.settled
        assert sim.state.runners() == []


def test_each_trouble_is_shown_and_documented() -> None:
    assert test_run_github_troubles.__name__  # its troubles are shown as well
    assert sorted(CATALOGUE) == sorted(SHOWN) == sorted(PAGE)


def test_a_trouble_ends(time: VirtualTime) -> None:
    """What each one does is over afterwards, in one simulator."""
    with Simulator(clock=time.clock) as sim:
        for name in CATALOGUE:
            sim.trouble(name)
        sim.troubles.end()
        with client(sim, time) as github:
            github.check("one", 2)
            made = github.generate_jitconfig("one", group_id=2, labels=["demo"])
            runner = sim.state.open_session(sim.state.runners()[0].bearer, "2.337.0")
            assert sim.state.next_message(runner.bearer, 1.2).type == "none"
            assert not github.sight(made.runner_id, "one").busy
            github.remove(made.runner_id, "one")
        assert sim.state.runners() == []
