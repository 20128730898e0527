"""The unit, as systemd itself judges it; what a service tells systemd; and how it waits after failures."""

import asyncio
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from ghrunner_vm import config, process, unit
from ghrunner_vm.cli import cli
from ghrunner_vm.errors import ExitCode, UsageError
from ghrunner_vm.github.key import read_private_key
from ghrunner_vm.github.token import CREDENTIAL
from ghrunner_vm.history import History
from ghrunner_vm.ledger import Ledger
from ghrunner_vm.lifecycle.backoff import pause
from ghrunner_vm.lifecycle.outcome import Outcome
from ghrunner_vm.lifecycle.state import Policy
from ghrunner_vm.notify import Notifier
from ghrunner_vm.record import FailureRecord, ProcessRecord, RunRecord
from ghrunner_vm.spec import MAX_JOB_SECONDS
from tests.unit.test_ledger import GONE, Host, record

ROOT = Path(__file__).parents[2]
SECONDS = 60.0
USERS = (None, "daemon")


def written(directory: Path, user: str | None, *, token: bool = False) -> Path:
    path = directory / unit.NAME
    path.write_text(unit.unit(Path("/bin/true"), user, token=token))
    return path


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("token", [False, True])
def test_systemd_finds_no_fault_in_the_unit(tmp_path: Path, user: str | None, token: bool) -> None:
    """It says what it does not know or would ignore, and ends well all the same, so any word is a fault."""
    path = written(tmp_path, user, token=token)
    with (tmp_path / "words").open("w+") as words:
        argv = ["systemd-analyze", "verify", "--man=no", str(path)]
        code = process.exit_code(argv, timeout=SECONDS, output=words.fileno())
        words.seek(0)
        assert (code, words.read()) == (0, "")


@pytest.mark.parametrize("user", USERS)
def test_the_exposure_is_what_the_document_says(tmp_path: Path, user: str | None) -> None:
    said = process.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(written(tmp_path, user))], timeout=SECONDS
    )
    score = re.search(r"exposure level for \S+: (\S+)", said)
    assert score is not None
    row = "--user NAME" if user else "as root"
    (documented,) = re.findall(rf"^\| {row} \| (\S+) \|", (ROOT / "docs/service.md").read_text(), re.MULTILINE)
    assert float(score[1]) <= float(documented)


def keys(text: str) -> dict[str, str]:
    lines = (line.partition("=") for line in text.splitlines() if not line.startswith("#"))
    return {key: value for key, _, value in lines if value or key == "CapabilityBoundingSet"}


def test_the_key_of_the_service_is_the_credential(tmp_path: Path) -> None:
    """The configuration may name a file that only root can read. systemd's access list shows as the group's mode."""
    (tmp_path / "github-private-key").write_text("-----BEGIN RSA PRIVATE KEY-----\n")
    (tmp_path / "github-private-key").chmod(0o440)
    (named,) = re.findall(r"Environment=(GHVM_GITHUB_PRIVATE_KEY)=(%d/\S+)", unit.unit(Path("/bin/true"), "daemon"))
    (tmp_path / "config.toml").write_text('github-private-key = "/nowhere.pem"\n')
    environ = {named[0]: named[1].replace("%d", str(tmp_path)), "CREDENTIALS_DIRECTORY": str(tmp_path)}
    settings = config.load({}, environ=environ, files=[tmp_path / "config.toml"])
    assert read_private_key(settings, environ=environ).warning is None


def test_a_service_with_a_token_gets_no_key_and_the_token_as_a_credential() -> None:
    text = unit.unit(Path("/bin/true"), "daemon", token=True)
    assert "private-key" not in text
    assert keys(text)["LoadCredential"] == f"{CREDENTIAL}:/etc/ghvm/token"


def test_what_is_documented_lets_a_service_without_root_reach_its_spec_but_not_the_secrets() -> None:
    """As GNU install makes them; the service's user is none of root's group."""
    text = "".join((ROOT / name).read_text() for name in ("README.md", "docs/service.md"))
    modes = re.findall(r"sudo install (?:-d )?-m (\d+) (?:\S+ )?(/etc/ghvm\S*)", text)
    others = {path: int(mode, 8) & 0o077 for mode, path in modes}
    assert others == {
        "/etc/ghvm": 0o055,
        "/etc/ghvm/app.pem": 0,
        "/etc/ghvm/token": 0,
        "/etc/ghvm/ubuntu.json": 0o044,
    }
    assert len(modes) == 2 * len(others) - 1


def test_a_stop_waits_longer_than_any_run_may_take() -> None:
    policy = Policy(boot=0, job=MAX_JOB_SECONDS)
    longest = policy.job + policy.drain + policy.settle + policy.grace + policy.reap + policy.after_job
    assert keys(unit.unit(Path("/bin/true")))["TimeoutStopSec"] == f"{unit.STOP_HOURS}h"
    assert longest < unit.STOP_HOURS * 3600


def test_the_unit_drains_and_waits_for_a_person_when_only_one_can_help() -> None:
    for user in USERS:
        found = keys(unit.unit(Path("/opt/ghvm/bin/ghvm"), user))
        assert found["KillMode"] == "mixed"
        assert found["Restart"] == "always"
        prevents = [f"{code:d}" for code in (ExitCode.USAGE, ExitCode.PERMANENT, exit_status("CREDENTIALS"))]
        assert found["RestartPreventExitStatus"].split() == prevents
        assert found["ExecStart"] == "/opt/ghvm/bin/ghvm run --back-off /etc/ghvm/%i.json"
        assert found.get("User") == user
        assert (found["CapabilityBoundingSet"] == "") == (user is not None)


def exit_status(name: str) -> int:
    """The number that systemd itself gives to one of its reasons not to start a service."""
    return int(process.run(["systemd-analyze", "exit-status", name], timeout=SECONDS).split()[-2])


def test_installing(tmp_path: Path) -> None:
    directory = tmp_path / "system"
    run = CliRunner()
    printed = run.invoke(cli, ["systemd", "--user", "runner"])
    installed = run.invoke(cli, ["systemd", "--user", "runner", "--install", "--directory", str(directory)])
    assert installed.exit_code == 0
    path = directory / "ghvm@.service"
    assert path.read_text() == printed.stdout
    assert path.stat().st_mode & 0o777 == 0o644
    assert run.invoke(cli, ["systemd", "--user", "runner", "--install", "--directory", str(directory)]).exit_code == 0
    other = run.invoke(cli, ["systemd", "--install", "--directory", str(directory)])
    assert isinstance(other.exception, UsageError)
    assert path.read_text() == printed.stdout
    assert run.invoke(cli, ["systemd", "--install", "--force", "--directory", str(directory)]).exit_code == 0
    assert "User=" not in path.read_text()
    odd = run.invoke(cli, ["systemd", "--user", "a\nExecStart=/bin/sh"])
    assert isinstance(odd.exception, UsageError)


# ---- what a service tells systemd ----


@pytest.fixture
def manager() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.settimeout(SECONDS)
        yield receiver


def heard(receiver: socket.socket) -> list[str]:
    return receiver.recv(4096).decode().split("\n")


def test_words_reach_the_manager(manager: socket.socket, tmp_path: Path) -> None:
    manager.bind(str(tmp_path / "notify"))
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")}).say(READY="1", STATUS="two\nlines")
    assert heard(manager) == ["READY=1", "STATUS=two lines"]


def test_an_abstract_address(manager: socket.socket) -> None:
    name = f"ghvm-test-{os.getpid()}"
    manager.bind(f"\0{name}")
    Notifier({"NOTIFY_SOCKET": f"@{name}"}).say(STATUS="here")
    assert heard(manager) == ["STATUS=here"]


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "/nowhere"}])
def test_nobody_listens(environ: dict[str, str]) -> None:
    Notifier(environ).say(READY="1")


def test_a_manager_that_does_not_read_is_not_waited_for(manager: socket.socket, tmp_path: Path) -> None:
    manager.bind(str(tmp_path / "notify"))
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")})
    for _ in range(5000):  # more than any socket's queue takes
        notifier.say(STATUS="x" * 1000)


def test_the_watchdog_is_fed_by_the_loop(manager: socket.socket, tmp_path: Path) -> None:
    manager.bind(str(tmp_path / "notify"))
    environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "2000", "WATCHDOG_PID": str(os.getpid())}

    async def live() -> None:
        async with Notifier(environ).alive():
            manager.setblocking(False)
            for _ in range(3):
                assert await asyncio.get_running_loop().sock_recv(manager, 100) == b"WATCHDOG=1"

    asyncio.run(asyncio.wait_for(live(), SECONDS))


@pytest.mark.parametrize(
    "environ", [{}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}]
)
def test_no_watchdog_is_fed_that_is_not_ours(manager: socket.socket, tmp_path: Path, environ: dict[str, str]) -> None:
    manager.bind(str(tmp_path / "notify"))

    async def live() -> None:
        async with Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify"), **environ}).alive():
            assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(live())


# ---- back-off ----


def ended(number: int, *, at: float, label: str = "demo", outcome: Outcome | None = None, code: int = 0) -> RunRecord:
    failure = None if outcome else FailureRecord.of(kind="Unreachable", brief="no", exit_code=code)
    vmm = ProcessRecord.of(pid=2, started=1)
    fields = {"vmm": vmm, "ended": at, "label": label, "failure": failure, "outcome": outcome and outcome.label}
    return record(f"run-{number:04}", GONE, **fields)


@pytest.mark.parametrize(
    ("failures", "seconds"), [(0, 0.0), (1, 5.0), (2, 10.0), (3, 20.0), (6, 160.0), (7, 300.0), (40, 300.0)]
)
def test_each_failure_doubles_the_pause(tmp_path: Path, failures: int, seconds: float) -> None:
    host = Host(tmp_path)
    host.end(ended(0, at=100, outcome=Outcome.JOB_DONE), at=100)
    for number in range(failures):
        host.end(ended(number + 1, at=200 + number, code=4), at=200 + number)
    assert pause(host.ledger, "demo", now=199 + max(1, failures)) == seconds


def test_only_what_failed_last_counts_and_the_time_since(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.end(ended(1, at=1, code=4), at=1)
    host.end(ended(2, at=2, outcome=Outcome.JOB_TIMEOUT), at=2)
    host.end(ended(3, at=3, outcome=Outcome.BOOT_FAILED), at=3)
    host.end(ended(4, at=4, code=4, label="other"), at=4)
    assert pause(host.ledger, "demo", now=4.0) == 4.0
    assert pause(host.ledger, "demo", now=60.0) == 0.0
    assert pause(host.ledger, "demo", now=-100.0) == 5.0  # a clock that was set back
    assert pause(Ledger(tmp_path / "none", History(tmp_path / "no")), "demo", now=1.0) == 0.0
