"""`ghvm sim serve` and `ghvm sim job` as real processes."""

import json
import os
import signal
import stat
import subprocess  # noqa: TID251 the test talks to a running process and signals it
import sys
from pathlib import Path

import pytest
import requests
from click.testing import CliRunner

from ghrunner_vm.commands.sim import sim as group
from ghrunner_vm.errors import InfrastructureError, UsageError
from ghrunner_vm.simulator.client import SimulatorClient
from ghrunner_vm.simulator.model import Registration, Scope
from ghrunner_vm.simulator.server import Simulator
from ghrunner_vm.simulator.trouble import CATALOGUE

GHVM_SIM = [sys.executable, "-c", "from ghrunner_vm.commands.sim import sim; sim()"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_tells_how_to_use_it_and_stops(tmp_path: Path, number: signal.Signals) -> None:
    command = [*GHVM_SIM, "serve", "--port", "0", "--directory", str(tmp_path / "sim"), "--trouble", "outage"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            exports = [next(process.stdout).strip() for _ in range(4)]
            settings = dict(line.removeprefix("export ").split("=", 1) for line in exports)
            with SimulatorClient(settings["GHVM_GITHUB_API_URL"]) as client:
                assert client.enqueue(["x"], "true", "name").status == "queued"
            assert requests.get(settings["GHVM_GITHUB_API_URL"] + "/app", timeout=30).status_code == 503
            key = Path(settings["GHVM_GITHUB_PRIVATE_KEY"])
            assert key.read_text().startswith("-----BEGIN RSA PRIVATE KEY-----")
            assert stat.S_IMODE(key.stat().st_mode) == 0o600
            process.send_signal(number)
            process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0


def test_serve_lists_its_troubles_and_knows_no_others() -> None:
    listed = CliRunner().invoke(group, ["serve", "--trouble", "list"], catch_exceptions=False)
    assert [line.split()[0] for line in listed.stdout.splitlines()] == list(CATALOGUE)
    result = CliRunner().invoke(group, ["serve", "--port", "0", "--trouble", "suspnded"])
    assert isinstance(result.exception, UsageError)
    assert "suspended" in str(result.exception.resolution)


@pytest.mark.parametrize(("conclusion", "code"), [("success", 0), ("failure", 1)])
def test_job_follows_the_log_and_exits_by_the_conclusion(conclusion: str, code: int) -> None:
    with Simulator() as sim:
        runner, _ = sim.state.register(Scope("orgs", "demo-org"), Registration("one", 1, ("demo",)))
        sim.state.open_session(runner.bearer, "2.337.0")
        command = [*GHVM_SIM, "job", "--url", sim.url, "--label", "demo", "--run", "make test"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            job = sim.state.next_message(runner.bearer, 30).job
            assert job is not None
            sim.state.accept(runner.bearer, job.id)
            sim.state.append_log(runner.bearer, job.id, "first [b]")
            assert process.stdout is not None
            assert next(process.stdout) == "first [b]\n"
            sim.state.append_log(runner.bearer, job.id, "\x1b[2J")
            sim.state.complete(runner.bearer, job.id, conclusion)  # type: ignore[arg-type]  # from the parameters
            rest, _ = process.communicate(timeout=30)
    assert (rest, process.returncode) == ("\N{REPLACEMENT CHARACTER}[2J\n", code)


def test_job_without_waiting_prints_the_record() -> None:
    with Simulator() as sim:
        arguments = ["job", "--url", sim.url, "--label", "demo", "--run", "true", "--no-wait", "--json"]
        result = CliRunner().invoke(group, arguments, catch_exceptions=False)
    record = json.loads(result.stdout)
    assert (result.exit_code, record["status"], record["labels"]) == (0, "queued", ["demo"])


def test_job_without_a_simulator_says_what_to_do() -> None:
    with Simulator() as sim:
        url = sim.url
    result = CliRunner().invoke(group, ["job", "--url", url, "--label", "demo", "--run", "true"])
    assert isinstance(result.exception, InfrastructureError)
    assert "ghvm sim serve" in str(result.exception.resolution)


@pytest.mark.parametrize("name", ["serve", "job"])
def test_help_has_examples(name: str) -> None:
    result = CliRunner().invoke(group, [name, "--help"])
    assert f"ghvm sim {name}" in result.stdout
    assert "default: " in result.stdout
