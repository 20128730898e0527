"""The listener's stand-in as a real process against a real simulator, in each shell that it is written for."""

import base64
import json
import os
import shutil
import signal
import subprocess  # noqa: TID251 the test talks to a running process and signals it
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

import ghrunner_vm.simulator
from ghrunner_vm.simulator.model import Job, Registration, Runner, Scope
from ghrunner_vm.simulator.server import Simulator

LISTENER = Path(ghrunner_vm.simulator.__file__).parent / "guest/Runner.Listener"
SCOPE = Scope("orgs", "demo-org")
HOSTED = {"ACTIONS_RUNNER_RETURN_JOB_RESULT_FOR_HOSTED": "1"}
OUTDATED = {"ACTIONS_RUNNER_RETURN_VERSION_DEPRECATED_EXIT_CODE": "1"}


@pytest.fixture
def sim() -> Iterator[Simulator]:
    with Simulator(guest_host="127.0.0.1") as simulator:
        yield simulator


@pytest.fixture(scope="session")
def applets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("applets")
    subprocess.run([str(shutil.which("busybox")), "--install", "-s", str(directory)], check=True)
    return directory


@pytest.fixture(params=["ash", "dash", "bash"])
def guest(request: pytest.FixtureRequest, applets: Path, tmp_path: Path) -> Iterator["Guest"]:
    if request.param != "ash" and shutil.which(request.param) is None:
        pytest.fail(f"{request.param} is missing: run tools/setup test")
    with Guest(request.param, applets, tmp_path / "runner") as made:
        yield made


class Guest:
    """A runner's root and a listener in it, with busybox's applets in front of the host's programs."""

    def __init__(self, shell: str, applets: Path, root: Path) -> None:
        self.shell = [str(applets / "ash")] if shell == "ash" else [str(shutil.which(shell))]
        self.path = f"{applets}:/usr/bin:/bin"
        self.root = root
        self.started: list[subprocess.Popen[str]] = []
        (root / "bin").mkdir(parents=True)
        shutil.copy(LISTENER, root / "bin")

    def __enter__(self) -> "Guest":
        return self

    def __exit__(self, *_error: object) -> None:
        for process in self.started:
            process.kill()
            process.communicate()

    def start(self, config: str, **environment: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [*self.shell, str(self.root / "bin/Runner.Listener"), "run"],
            env={"PATH": self.path, "LANG": "C.UTF-8", "ACTIONS_RUNNER_INPUT_JITCONFIG": config, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.started.append(process)
        return process

    def run(self, config: str, **environment: str) -> tuple[int, str]:
        process = self.start(config, **environment)
        output, _ = process.communicate(timeout=60)
        return process.returncode, output


def register(sim: Simulator, name: str = "ghvm-1") -> tuple[Runner, str]:
    return sim.state.register(SCOPE, Registration(name, 1, ("demo", "X64")))


def wait_online(sim: Simulator, runner: Runner) -> None:
    sim.state.wait_for(lambda: sim.state.runner(runner.id).online or None)


def has_ended(number: str) -> bool:
    """Whether a process is gone, or dead and only not yet collected by its parent."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_job_succeeds(sim: Simulator, guest: Guest) -> None:
    runner, config = register(sim)
    job = sim.state.enqueue(["DEMO"], "echo hello", "greet")
    code, output = guest.run(config, **HOSTED)
    assert code == 100
    told = [line for line in output.splitlines() if line]
    assert told[:2] == ["√ Connected to GitHub", "Current runner version: '2.337.0'"]
    assert [line.partition("Z: ")[2] for line in told[2:]] == [
        "Listening for Jobs",
        "Running job: greet",
        "Job greet completed with result: Succeeded",
    ]
    done = sim.state.job(job.id)
    assert (done.status, done.conclusion, done.runner_name) == ("completed", "success", runner.name)
    assert done.log == ["hello"]
    assert sim.state.runners() == []


def test_a_job_fails(sim: Simulator, guest: Guest) -> None:
    _, config = register(sim)
    job = sim.state.enqueue(["demo"], "echo before\nfalse\necho after")
    assert guest.run(config, **HOSTED)[0] == 102
    assert (sim.state.job(job.id).conclusion, sim.state.job(job.id).log) == ("failure", ["before"])


def test_without_the_hosted_switch_the_exit_code_hides_the_result(sim: Simulator, guest: Guest) -> None:
    _, config = register(sim)
    sim.state.enqueue(["demo"], "exit 9")
    assert guest.run(config)[0] == 0


def test_the_log_is_complete_and_in_order(sim: Simulator, guest: Guest) -> None:
    lines = [f"line {number}" for number in range(300)]
    lines += ["", "  indented\t", r"back\slash \n %s $HOME `x`", "\"double\" 'single'", "grüße √ 日本", "*", "-n", ""]
    text = "\n".join([*lines, "no end of line"])
    encoded = base64.b64encode(text.encode()).decode()
    _, config = register(sim)
    job = sim.state.enqueue(["demo"], f"echo {encoded} | base64 -d")
    guest.run(config)
    assert sim.state.job(job.id).log == [*lines, "no end of line"]


def test_the_log_is_live_and_the_job_sees_no_config(sim: Simulator, guest: Guest, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    _, config = register(sim)
    job = sim.state.enqueue(["demo"], f"echo first; cat {gate}; env")
    process = guest.start(config)

    def has_first_line(job: Job) -> bool:
        return job.log == ["first"]

    assert sim.state.wait_job(job.id, has_first_line).status == "in_progress"
    gate.write_text("go on\n")
    process.communicate(timeout=60)
    log = sim.state.job(job.id).log
    assert log[1] == "go on"
    assert not [line for line in log if "JITCONFIG" in line]


def test_what_the_job_leaves_running_does_not_hold_it_up(sim: Simulator, guest: Guest) -> None:
    _, config = register(sim)
    job = sim.state.enqueue(["demo"], "sleep 1000 & echo $!")
    assert guest.run(config, **HOSTED)[0] == 100
    (number,) = sim.state.job(job.id).log
    assert has_ended(number)


def test_hooks_run_around_the_job(sim: Simulator, guest: Guest, tmp_path: Path) -> None:
    hooks = {}
    for name in ("STARTED", "COMPLETED"):
        script = tmp_path / f"{name}.sh"
        script.write_text(f"echo hook {name} $RUNNER_NAME\n")
        hooks[f"ACTIONS_RUNNER_HOOK_JOB_{name}"] = str(script)
    _, config = register(sim)
    job = sim.state.enqueue(["demo"], "echo job; pwd")
    guest.run(config, **hooks)
    work = str(guest.root / "_work")
    assert sim.state.job(job.id).log == ["hook STARTED ghvm-1", "job", work, "hook COMPLETED ghvm-1"]


def test_an_idle_runner_that_is_removed_ends(sim: Simulator, guest: Guest) -> None:
    runner, config = register(sim)
    process = guest.start(config)
    wait_online(sim, runner)
    sim.state.remove(SCOPE, runner.id)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "The runner no longer exists on the server. Cleaning up local configuration." in output


def test_sigterm_while_idle_makes_the_runner_offline(sim: Simulator, guest: Guest) -> None:
    runner, config = register(sim)
    process = guest.start(config)
    wait_online(sim, runner)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 0
    sim.state.wait_for(lambda: True if not sim.state.runner(runner.id).online else None)


def test_sigterm_in_a_job_ends_it_and_leaves_the_runner_busy(sim: Simulator, guest: Guest) -> None:
    runner, config = register(sim)
    job = sim.state.enqueue(["demo"], "echo $$; sleep 1000")
    process = guest.start(config)
    running = sim.state.wait_job(job.id, lambda job: bool(job.log))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert has_ended(running.log[0])
    sim.state.wait_for(lambda: True if not sim.state.runner(runner.id).online else None)
    assert sim.state.runner(runner.id).busy
    assert sim.state.job(job.id).status == "in_progress"


@pytest.mark.parametrize(("environment", "code"), [({}, 1), (OUTDATED, 7)])
def test_an_outdated_listener(sim: Simulator, guest: Guest, environment: dict[str, str], code: int) -> None:
    sim.state.minimum_version = "2.400.0"
    _, config = register(sim)
    returned, output = guest.run(config, **environment)
    assert returned == code
    assert "Connected to GitHub" in output
    assert "is deprecated and cannot receive messages" in output


def test_a_deleted_registration(sim: Simulator, guest: Guest) -> None:
    runner, config = register(sim)
    sim.state.remove(SCOPE, runner.id)
    assert guest.run(config)[0] == 1


@pytest.mark.parametrize("damage", ["", "%%%", "truncated"])
def test_a_bad_config(sim: Simulator, guest: Guest, damage: str) -> None:
    _, config = register(sim)
    code, output = guest.run(config[:2000] if damage == "truncated" else damage)
    assert code == 1
    assert "The JIT configuration" in output


def test_the_job_goes_on_when_the_connection_is_cut_at_accept(sim: Simulator, guest: Guest) -> None:
    rule = {"method": "POST", "path": "/_service/jobs/*/accept", "cut": "before", "count": 1}
    requests.post(f"{sim.url}/_sim/faults", json=rule, timeout=10).raise_for_status()
    _, config = register(sim)
    job = sim.state.enqueue(["demo"], "echo hello")
    assert guest.run(config, **HOSTED)[0] == 100
    assert sim.state.job(job.id).log == ["hello"]


def test_the_config_has_github_s_form_and_size(sim: Simulator) -> None:
    _, config = register(sim, "ghvm-ubuntu-0a1b2c3d")
    assert 3900 <= len(config) <= 4800
    files = {name: json.loads(base64.b64decode(text)) for name, text in json.loads(base64.b64decode(config)).items()}
    assert set(files) == {".runner", ".credentials", ".credentials_rsaparams"}
    assert files[".runner"]["ServerUrl"] == f"http://127.0.0.1:{sim.port}/_service"
    assert files[".runner"]["Ephemeral"] == "True"
    assert len(base64.b64decode(files[".credentials_rsaparams"]["modulus"])) == 256
