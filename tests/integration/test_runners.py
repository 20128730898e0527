"""`ghvm runners list` and `ghvm runners prune` as a person meets them."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ghrunner_vm import process, runs
from ghrunner_vm.errors import ExitCode
from ghrunner_vm.record import ProcessRecord, RunnerRecord, RunRecord
from ghrunner_vm.runs import RunDirectory
from ghrunner_vm.simulator.faults import Rule
from ghrunner_vm.simulator.model import Registration, Runner, Scope
from ghrunner_vm.simulator.server import Simulator
from tests.operator import Operator

ORG = Scope("orgs", "demo-org")
LIVE, DEAD, OTHER = "live-00000001", "dead-00000002", "other-00000003"


@pytest.fixture
def operator(tmp_path: Path) -> Iterator[Operator]:
    with Simulator() as sim:
        yield Operator(tmp_path, sim)


def register(operator: Operator, name: str, *, version: str | None = None, online: bool = False) -> Runner:
    """A runner at the simulator; with a version it was online once."""
    runner, _ = operator.sim.state.register(ORG, Registration(name, 1, ("demo", "x64")))
    if version:
        operator.sim.state.open_session(runner.bearer, version)
        if not online:
            operator.sim.state.disconnect(runner.id)
    return runner


@contextlib.contextmanager
def run(operator: Operator, name: str, scope: str = "org:demo-org") -> Iterator[RunDirectory]:
    """A run directory with a registration; its supervisor is this process."""
    here = ProcessRecord.of(pid=os.getpid(), started=process.start_time(os.getpid()))
    about = {"boot_id": process.boot_id(), "supervisor": here, "label": "demo", "image": "ubuntu"}
    with runs.create(operator.runs, RunRecord.of(id=name, since=1.0, created=1.0, **about)) as directory:
        runner = RunnerRecord.of(name=name, api_url=operator.sim.url, scope=scope, asked=1.0)
        directory.update(runner=runner)
        yield directory
        if directory.record.supervisor == here:
            directory.update(runner=None)


def leave(operator: Operator, name: str, scope: str = "org:demo-org") -> None:
    """The remains of a run whose supervisor is gone."""
    with run(operator, name, scope) as directory:
        directory.update(supervisor=ProcessRecord.of(pid=os.getpid(), started=1))


def test_whose_the_runners_are(operator: Operator) -> None:
    for name, version, online in ((LIVE, "2.337.0", True), (DEAD, "2.337.0", False), (OTHER, None, False)):
        register(operator, name, version=version, online=online)
    operator.sim.state.enqueue(["demo"], "true")  # the live one gets it
    leave(operator, DEAD)
    leave(operator, OTHER, scope="org:another")  # of the same name, somewhere else
    with run(operator, LIVE):
        text, ours, document = (operator.ghvm("runners", "list", *more) for more in ((), ("--ours",), ("--json",)))
    assert [done.returncode for done in (text, ours, document)] == [ExitCode.OK] * 3
    assert text.stdout == (
        "NAME            ID  STATUS   BUSY  OS       VERSION  LABELS     WHOSE\n"
        "live-00000001   1   online   yes   linux    2.337.0  demo, x64  a live run of this host\n"
        "dead-00000002   2   offline  no    linux    2.337.0  demo, x64  a dead run of this host\n"
        "other-00000003  3   offline  no    unknown  -        demo, x64  not known here\n"
    )
    assert [line.split()[0] for line in ours.stdout.splitlines()] == ["NAME", LIVE, DEAD]
    assert json.loads(document.stdout.replace(operator.sim.url, "URL")) == {
        "schema": 1,
        "scope": "org:demo-org",
        "api-url": "URL",
        "runners": [
            {
                "name": LIVE,
                "id": 1,
                "status": "online",
                "busy": True,
                "os": "linux",
                "version": "2.337.0",
                "labels": ["demo", "x64"],
                "owner": "alive",
            },
            {
                "name": DEAD,
                "id": 2,
                "status": "offline",
                "busy": False,
                "os": "linux",
                "version": "2.337.0",
                "labels": ["demo", "x64"],
                "owner": "dead",
            },
            {
                "name": OTHER,
                "id": 3,
                "status": "offline",
                "busy": False,
                "os": "unknown",
                "version": None,
                "labels": ["demo", "x64"],
                "owner": "unknown",
            },
        ],
    }


def test_nothing_is_registered(operator: Operator) -> None:
    done = operator.ghvm("runners", "list")
    assert (done.returncode, done.stdout) == (ExitCode.OK, "")
    assert done.stderr == "no runner is registered in org:demo-org\n"


def test_leftovers_of_this_host_are_told_then_deleted(operator: Operator) -> None:
    for name in (LIVE, DEAD, OTHER):
        register(operator, name)
    leave(operator, DEAD)
    leave(operator, "dead-00000009")
    with run(operator, LIVE):
        told = operator.ghvm("runners", "prune", "--dry-run")
        assert operator.registered == [LIVE, DEAD, OTHER]
        done = operator.ghvm("runners", "prune", "--json")
        assert (operator.registered, operator.recorded) == ([LIVE, OTHER], [LIVE])
    assert told.stdout == f"{DEAD}: would delete (a dead run of this host left it)\n"
    assert done.returncode == ExitCode.OK
    assert json.loads(done.stdout) == {
        "schema": 1,
        "runners": [
            {"name": DEAD, "fate": "deleted", "why": None},
            {"name": "dead-00000009", "fate": "gone", "why": None},
        ],
    }


def test_what_a_person_names(operator: Operator) -> None:
    register(operator, "old-1", version="2.337.0")
    register(operator, "old-2", version="2.337.0", online=True)
    register(operator, "old-3")
    register(operator, LIVE)
    words = ("--name-prefix", "old-", "--name", LIVE, "--name", "nobody")
    new = "it was never online, so it may be about to start: give --unconnected to delete it all the same"
    kept = (
        f"old-2: kept (it is online)\nold-3: kept ({new})\n{LIVE}: kept (a run on this host is using it)\n"
        "nobody: gone (GitHub lists no such runner)\n"
    )
    with run(operator, LIVE):
        assert operator.ghvm("runners", "prune", "--dry-run", *words).stdout == f"old-1: would delete\n{kept}"
        assert operator.ghvm("runners", "prune", *words).stdout == f"old-1: deleted\n{kept}"
    assert operator.registered == ["old-2", "old-3", LIVE]
    assert operator.ghvm("runners", "prune", "--name", "old-3").stdout == "old-3: deleted\n"


def test_a_runner_that_github_will_not_let_go(operator: Operator) -> None:
    register(operator, "old-1")
    operator.sim.trouble("removal-refused")
    done = operator.ghvm("runners", "prune", "--name", "old-1")
    assert done.returncode == ExitCode.INFRASTRUCTURE
    assert done.stdout == "old-1: pending (GitHub believes that its job still runs)\n"
    assert done.stderr == "error: GitHub keeps some runners for now\n→ Run it again in a quarter of an hour.\n"


def test_what_was_deleted_before_an_error_is_told(operator: Operator) -> None:
    register(operator, "old-1")
    register(operator, "old-2")
    operator.sim.faults.add(Rule(path="*/actions/runners/2", status=403, body='{"message": "no more"}'))
    done = operator.ghvm("runners", "prune", "--json", "--name-prefix", "old-", "--unconnected")
    assert done.returncode == ExitCode.PERMANENT
    assert json.loads(done.stdout)["runners"] == [{"name": "old-1", "fate": "deleted", "why": None}]
    assert "no more" in done.stderr


@pytest.mark.parametrize("words", [["--name-prefix", "ab"], ["--name-prefix", ""], ["--unconnected"]])
def test_what_could_mean_anybodys_runners_is_refused(operator: Operator, words: list[str]) -> None:
    operator.sim.trouble("outage")
    assert operator.ghvm("runners", "prune", *words).returncode == ExitCode.USAGE
