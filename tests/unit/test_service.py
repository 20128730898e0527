"""The unit, as systemd itself judges it; what a service tells systemd; and how it waits after failures."""

import asyncio
import contextlib
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from ghrunner_vm import config, process, unit
from ghrunner_vm.cli import cli
from ghrunner_vm.errors import ExitCode, GhvmError, UsageError
from ghrunner_vm.github.key import read_private_key
from ghrunner_vm.github.token import CREDENTIAL
from ghrunner_vm.lifecycle.backoff import BackOff, counter
from ghrunner_vm.lifecycle.gc import sweep
from ghrunner_vm.lifecycle.state import Policy
from ghrunner_vm.notify import Notifier
from ghrunner_vm.spec import MAX_JOB_SECONDS
from tests.integration.virtual_clock import VirtualTime

ROOT = Path(__file__).parents[2]
SECONDS = 60.0
USERS = (None, "daemon")


def written(directory: Path, user: str | None, *, token: bool = False, firecracker: bool = False) -> Path:
    path = directory / unit.NAME
    path.write_text(unit.unit(Path("/bin/true"), user, token=token, firecracker=firecracker))
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


@pytest.mark.parametrize(
    ("row", "user", "firecracker"),
    [("as root", None, False), ("--firecracker", None, True), ("--user NAME", "daemon", False)],
)
def test_the_exposure_is_what_the_document_says(tmp_path: Path, row: str, user: str | None, firecracker: bool) -> None:
    file = written(tmp_path, user, firecracker=firecracker)
    analyze = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(file)]
    score = re.search(r"exposure level for \S+: (\S+)", process.run(analyze, timeout=SECONDS))
    assert score is not None
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


class Service:
    """The runs of one spec, which fail as they are told."""

    def __init__(self, state: Path, spec: Path = Path("spec.json")) -> None:
        self.time = VirtualTime()
        self.path = counter(state, spec)
        self.back_off = BackOff(self.path, self.time.clock)

    def run(self, code: ExitCode) -> None:
        error = GhvmError("it failed")
        error.exit_code = code
        with contextlib.suppress(GhvmError), self.back_off.counting():
            if code is not ExitCode.OK:
                raise error


@pytest.fixture
def service(tmp_path: Path) -> Service:
    return Service(tmp_path / "state")


@pytest.mark.parametrize(
    ("failures", "seconds"), [(0, 0.0), (1, 5.0), (2, 10.0), (3, 20.0), (6, 160.0), (7, 300.0), (40, 300.0)]
)
def test_each_failure_doubles_the_pause(service: Service, failures: int, seconds: float) -> None:
    for _ in range(failures):
        service.run(ExitCode.INFRASTRUCTURE)
    assert (service.back_off.pause, service.back_off.failures) == (seconds, failures)
    with service.back_off.counting() as pause:
        assert pause == seconds


def test_the_time_since_the_last_failure_counts(service: Service) -> None:
    service.run(ExitCode.NOT_UP)
    for passed, pause in ((1.0, 4.0), (60.0, 0.0), (-3600.0, 5.0)):  # the last one: a clock that was set back
        service.time.now += passed
        assert service.back_off.pause == pause
        service.time.now -= passed


@pytest.mark.parametrize(
    ("code", "failures"),
    [
        (ExitCode.OK, 0),
        (ExitCode.JOB_TIMEOUT, 0),
        (ExitCode.INTERRUPTED, 0),
        (ExitCode.USAGE, 1),
        (ExitCode.PERMANENT, 1),
        (ExitCode.ERROR, 2),
        (ExitCode.NOT_UP, 2),
        (ExitCode.INFRASTRUCTURE, 2),
    ],
)
def test_how_a_run_after_a_failure_counts(service: Service, code: ExitCode, failures: int) -> None:
    service.run(ExitCode.INFRASTRUCTURE)
    service.run(code)
    assert service.back_off.failures == failures
    assert service.path.exists() == (failures > 0)


def test_an_unforeseen_error_counts_and_is_passed_on(service: Service) -> None:
    with pytest.raises(ZeroDivisionError), service.back_off.counting():
        1 // 0  # noqa: B018 it raises
    assert service.back_off.failures == 1


def test_each_service_counts_for_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two with one label are two specs; one spec is the same however it is named."""
    monkeypatch.chdir(tmp_path)
    one, other = Service(tmp_path, Path("one.json")), Service(tmp_path, Path("other.json"))
    one.run(ExitCode.NOT_UP)
    assert (one.back_off.failures, other.back_off.failures) == (1, 0)
    assert Service(tmp_path, tmp_path / "one.json").back_off.failures == 1


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"failures": -1, "last": 1}', b'{"failures": 3, "last": NaN}', b"9" * 5000]
)
def test_a_damaged_count_is_none_and_is_replaced(service: Service, content: bytes) -> None:
    service.path.parent.mkdir()
    service.path.write_bytes(content)
    assert service.back_off.failures == 0
    service.run(ExitCode.NOT_UP)
    assert service.back_off.failures == 1


def test_a_count_that_is_not_ours_is_none(service: Service, tmp_path: Path) -> None:
    service.run(ExitCode.NOT_UP)
    service.path.rename(tmp_path / "elsewhere.json")
    service.path.symlink_to(tmp_path / "elsewhere.json")
    assert service.back_off.failures == 0
    service.path.unlink()
    service.path.mkdir()
    for code in (ExitCode.NOT_UP, ExitCode.OK):  # what cannot be written is no reason to end otherwise
        service.run(code)
    assert service.back_off.failures == 0


def test_gc_keeps_the_count_and_sweeps_what_a_crash_left_of_one(service: Service) -> None:
    service.run(ExitCode.NOT_UP)
    (service.path.parent / f".{service.path.name}.0123abcd").touch()
    sweep(service.path.parent)
    assert list(service.path.parent.iterdir()) == [service.path]


def test_without_back_off_nothing_is_counted() -> None:
    assert (BackOff(None).failures, BackOff(None).pause) == (None, 0.0)
    with pytest.raises(GhvmError), BackOff(None).counting():
        raise GhvmError("it failed")
