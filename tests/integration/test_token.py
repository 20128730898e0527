"""`ghvm token` as a person meets it: what it shows, and that nothing stays registered whatever happens."""

import base64
import contextlib
import json
import os
import pty
import signal
import subprocess  # noqa: TID251 a terminal of its own
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ghrunner_vm.errors import ExitCode
from ghrunner_vm.github.jitconfig import decode
from ghrunner_vm.record import RECORD, encode_record, read_record
from ghrunner_vm.simulator.faults import Rule
from ghrunner_vm.simulator.model import Conduct, Group
from ghrunner_vm.simulator.server import Simulator
from ghrunner_vm.simulator.trouble import JITCONFIG
from tests.operator import GHVM, SECONDS, Operator, stable

SURVEY = """\
ok       identity      the GitHub App ghvm demo, number 1000001
ok       installation  number 1 on demo-org, for all repositories
ok       permission    organization_self_hosted_runners: write, as it must be
"""
BUDGET = (
    "ok       budget        core: 5000 of 5000 requests left;"
    " actions_runner_registration: 10000 of 10000 requests left\n"
)
CLOCK = "ok       clock         this host's agrees with GitHub's within 30 seconds\n"
GROUP = "ok       group         number 1, Default, visible to all, no public repositories\n"
CONFIGURATION = """\
ok       configuration 4000 characters, without the secrets:
                       .runner
                         AgentId: 1
                         AgentName: ghvm-token-ID
                         DisableUpdate: True
                         Ephemeral: True
                         GitHubUrl:
                         PoolId: 1
                         PoolName: none
                         ServerUrl: http://GUEST/_service
                         ServerUrlV2: http://GUEST/_service
                         SkipSessionRecover: True
                         UseRunnerAdminFlow: True
                         UseV2Flow: True
                         WorkFolder: _work
                         IsHostedServer: True
                         hidden: MonitorSocketAddress
                       .credentials
                         Scheme: OAuth
                         Data.authorizationUrl: http://GUEST/…
                         Data.requireFipsCryptography: True
                         Data.enableAuthMigrationByDefault: False
                         hidden: Data.clientId
                       .credentials_rsaparams
                         hidden: d, dp, dq, exponent, inverseQ, modulus, p, q
"""
REGISTERED = "ok       registration  ghvm-token-ID is runner 1 with the labels ghvm-token\n"
DELETED = "ok       deletion      ghvm-token-ID is deleted\n"
LATER = "→ Run `ghvm runners prune` with the same options later; every `ghvm gc` and `ghvm run` tries it too.\n"


@pytest.fixture
def operator(tmp_path: Path) -> Iterator[Operator]:
    with Simulator() as sim:
        yield Operator(tmp_path, sim)


def test_what_a_person_sees(operator: Operator) -> None:
    done = operator.ghvm("token")
    assert (done.returncode, done.stderr) == (ExitCode.OK, "")
    assert stable(done.stdout) == SURVEY + BUDGET + GROUP + CLOCK + REGISTERED + CONFIGURATION + DELETED
    assert (operator.registered, operator.recorded) == ([], [])


def test_what_a_machine_reads(operator: Operator) -> None:
    done = operator.ghvm("token", "--json", "--label", "one", "--label", "Two")
    assert (done.returncode, done.stderr) == (ExitCode.OK, "")
    document = json.loads(stable(done.stdout).replace("TIME", "0"))
    findings = {one.pop("topic"): one for one in document["findings"]}
    files = findings.pop("configuration")["files"]
    words = [one.pop("words") for one in findings.values()]
    assert all(words)
    assert {key: value for key, value in document.items() if key != "findings"} == {
        "schema": 1,
        "scope": "org:demo-org",
        "api-url": "http://HOST",
        "error": None,
    }
    assert findings == {
        "identity": {
            "state": "ok",
            "kind": "app",
            "app-id": 1000001,
            "app-name": "ghvm demo",
            "app-slug": "ghvm-demo",
        },
        "installation": {
            "state": "ok",
            "id": 1,
            "account": "demo-org",
            "account-type": "Organization",
            "repository-selection": "all",
            "suspended-at": None,
        },
        "permission": {
            "state": "ok",
            "name": "organization_self_hosted_runners",
            "granted": "write",
            "needed": "write",
        },
        "budget": {
            "state": "ok",
            "limits": {
                "core": {"limit": 5000, "remaining": 5000, "resets-at": 0},
                "actions_runner_registration": {"limit": 10000, "remaining": 10000, "resets-at": 0},
            },
        },
        "group": {
            "state": "ok",
            "id": 1,
            "name": "Default",
            "visibility": "all",
            "allows-public-repositories": False,
            "workflows": None,
            "repositories": None,
            "repositories-count": None,
        },
        "clock": {"state": "ok", "ahead-seconds": 0},
        "registration": {"state": "ok", "id": 1, "name": "ghvm-token-ID", "labels": ["one", "Two"]},
        "deletion": {"state": "ok", "name": "ghvm-token-ID"},
    }
    assert files[".runner"]["shown"]["AgentName"] == "ghvm-token-ID"
    assert files[".credentials"] == {
        "shown": {
            "Scheme": "OAuth",
            "Data.authorizationUrl": "http://GUEST/…",
            "Data.requireFipsCryptography": "True",
            "Data.enableAuthMigrationByDefault": "False",
        },
        "hidden": ["Data.clientId"],
    }


def test_it_costs_few_requests(operator: Operator) -> None:
    """The group, the registration, its deletion and that of the token; the App's own are counted apart."""
    operator.ghvm("token")
    used = {bucket: operator.sim.rates.look(bucket).used for bucket in ("installation ID 1", "app")}
    assert used == {"installation ID 1": 4, "app": 4}


def test_a_persons_token_and_a_spec(operator: Operator) -> None:
    spec = {"label": "big", "labels": ["x64"], "image": "any", "arch": "x86_64", "cpu-cores": 1, "ram": "1G"}
    path = operator.directory / "spec.json"
    path.write_text(json.dumps({**spec, "root-disk": "1G", "timeout-seconds": 60}), encoding="utf-8")
    done = operator.ghvm("token", "--spec", str(path), GHVM_GITHUB_TOKEN=operator.sim.personal_token)
    lines = stable(done.stdout).splitlines()
    assert lines[0] == "ok       identity      a token, not an App"
    assert "ok       registration  ghvm-token-ID is runner 1 with the labels big, x64" in lines
    assert [line.split()[1] for line in lines[:5]] == ["identity", "budget", "group", "clock", "registration"]


@pytest.mark.parametrize(
    ("repositories", "line"),
    [
        (("demo-org/a", "demo-org/b"), "ok       group         number 3, Few, visible to demo-org/a, demo-org/b, "),
        ((), "warning  group         number 3, Few, visible to no repository, "),
        (
            tuple(f"demo-org/{number}" for number in range(12)),
            f"ok       group         number 3, Few, visible to {', '.join(f'demo-org/{n}' for n in range(10))}, …, ",
        ),
    ],
)
def test_the_repositories_of_a_group(operator: Operator, repositories: tuple[str, ...], line: str) -> None:
    operator.sim.state.groups[3] = Group(3, "Few", repositories=repositories)
    done = operator.ghvm("token", "--runner-group-id", "3")
    assert f"{line}no public repositories" in done.stdout.splitlines()
    assert done.returncode == ExitCode.OK


TROUBLES = {
    "suspended": (
        ExitCode.PERMANENT,
        SURVEY.replace("ok       inst", "failed   inst").replace("for all repositories", "suspended since DATE")
        + CLOCK,
        "error: the App's installation on org:demo-org is suspended\nsince DATE\n"
        "→ An owner must unsuspend it in the settings of its installation.\n",
    ),
    "no-permission": (
        ExitCode.PERMANENT,
        SURVEY.replace("ok       perm", "failed   perm").replace(
            "write, as it must be", "nothing, but it must be write"
        )
        + CLOCK,
        "error: the App may not manage the runners of org:demo-org\n"
        '→ Grant the App "organization_self_hosted_runners: write", and accept the change in its installation.\n',
    ),
    "host-clock-behind": (
        ExitCode.PERMANENT,
        "warning  clock         this host's is 20 minutes behind GitHub's\n",
        "error: this host's clock is 20 minutes behind GitHub's, which refuses the App for it\n"
        "GitHub answered 401; 'Expiration time' claim ('exp') must be a numeric value representing the future time at"
        " which the assertion expires; x-github-request-id ID\n"
        "→ Set the clock, for example with timedatectl set-ntp true.\n",
    ),
    "unknown-group": (
        ExitCode.PERMANENT,
        SURVEY + BUDGET + CLOCK,
        "error: org:demo-org has no runner group 1\nGitHub answered 404; Not Found\n"
        "→ Give --runner-group-id the number at the end of the group's page in the settings. GitHub says the same to a"
        " token that may not register runners any more.\n",
    ),
    "lost-response": (
        ExitCode.INFRASTRUCTURE,
        SURVEY + BUDGET + GROUP + CLOCK,
        "warning: GitHub's answer to the registration of ghvm-token-ID was lost; nothing is left of it\n"
        "error: GitHub's answer to the registration of ghvm-token-ID was lost\n"
        "ConnectionError: ('Connection aborted.', RemoteDisconnected('Remote end closed connection without"
        " response'))\n"
        "→ Run it again: a new run has a new name. What GitHub made of this one, the run or gc deletes.\n",
    ),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_trouble_is_told_where_it_appears(operator: Operator, trouble: str) -> None:
    code, out, err = TROUBLES[trouble]
    operator.sim.trouble(trouble)
    done = operator.ghvm("token")
    assert (done.returncode, stable(done.stdout), stable(done.stderr)) == (code, out, err)
    assert (operator.registered, operator.recorded) == ([], [])


def test_an_error_stands_in_the_json_too(operator: Operator) -> None:
    operator.sim.trouble("suspended")
    done = operator.ghvm("token", "--json")
    document = json.loads(done.stdout)
    assert [one["state"] for one in document["findings"]] == ["ok", "failed", "ok", "ok"]
    assert document["error"]["exit-code"] == done.returncode == ExitCode.PERMANENT
    assert document["error"]["brief"] == "the App's installation on org:demo-org is suspended"


def test_a_rate_limit_that_is_nearly_used_up(operator: Operator) -> None:
    operator.sim.rates.spend("installation ID 1", 4900)
    done = operator.ghvm("token")
    assert done.returncode == ExitCode.OK
    assert "warning  budget        core: 100 of 5000 requests left; " in done.stdout
    assert done.stderr.startswith("warning: less than a tenth of GitHub's rate limit is left: ")


def test_a_deletion_that_github_refuses_is_left_to_prune(operator: Operator) -> None:
    operator.sim.trouble("removal-refused")
    done = operator.ghvm("token")
    assert done.returncode == ExitCode.INFRASTRUCTURE
    assert stable(done.stdout) == SURVEY + BUDGET + GROUP + CLOCK + REGISTERED + CONFIGURATION
    assert stable(done.stderr) == (f"error: ghvm-token-ID may still be registered\nIt is on record here.\n{LATER}")
    (name,) = operator.registered
    assert operator.recorded == [name]
    operator.sim.troubles.end()
    assert operator.ghvm("runners", "prune").stdout == f"{name}: deleted\n"
    assert (operator.registered, operator.recorded) == ([], [])


def coded(content: object) -> str:
    return base64.b64encode(json.dumps(content).encode()).decode()


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        ("sesame!", "it is not base64"),
        ("A" * 100_000, "it has 100000 characters"),
        (base64.b64encode(b"[" * 40_000).decode(), "it is not JSON"),
        (coded({".runner": {"sesame": "sesame"}}), ".runner is no text"),
    ],
    ids=["no base64", "huge", "nested", "other form"],
)
def test_a_configuration_of_no_known_form_is_an_error_and_is_deleted(operator: Operator, sent: str, why: str) -> None:
    operator.sim.state.conduct = Conduct(config=sent)
    done = operator.ghvm("token")
    assert done.returncode == ExitCode.INFRASTRUCTURE
    assert done.stderr == (
        f"error: what GitHub sent is not a JIT config that ghvm knows\n{why}\n→ A proxy may have answered in GitHub's"
        " place. Else the form has changed: look for a newer ghvm.\n"
    )
    assert "sesame" not in done.stdout
    assert (operator.registered, operator.recorded) == ([], [])


def test_raw_prints_the_configuration_alone_and_deletes_the_runner(operator: Operator) -> None:
    done = operator.ghvm("token", "--raw")
    assert done.returncode == ExitCode.OK
    assert decode(done.stdout.removesuffix("\n"))
    assert stable(done.stderr) == SURVEY + BUDGET + GROUP + CLOCK + REGISTERED + DELETED
    assert (operator.registered, operator.recorded) == ([], [])


def test_a_runner_that_is_kept_stays_until_somebody_names_it(operator: Operator) -> None:
    done = operator.ghvm("token", "--raw", "--keep")
    assert decode(done.stdout.removesuffix("\n"))
    (name,) = operator.registered
    assert done.stderr.endswith(
        f"warning  deletion      {name} stays registered, and whoever has its configuration can run its job. GitHub may"
        " refuse the configuration after minutes, and removes a runner that was not started within a day. To delete it"
        f" before: ghvm runners prune --name {name}\n"
    )
    assert operator.recorded == []
    assert operator.ghvm("gc").stdout == ""
    assert operator.registered == [name]
    assert operator.ghvm("runners", "prune", "--name", name).stdout == f"{name}: deleted\n"
    assert operator.registered == []


def test_a_reader_that_went_away_keeps_nothing(operator: Operator) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with contextlib.closing(os.fdopen(writing, "w")) as nobody:
        argv = [*GHVM, "token", "--raw", "--keep"]
        done = subprocess.run(
            argv, stdout=nobody, stderr=subprocess.PIPE, env=operator.environment, timeout=SECONDS, check=False
        )
    assert done.returncode == ExitCode.ERROR
    assert (operator.registered, operator.recorded) == ([], [])


def test_a_secret_is_not_shown_on_a_terminal(operator: Operator) -> None:
    main, terminal = pty.openpty()
    with contextlib.closing(os.fdopen(main)), contextlib.closing(os.fdopen(terminal)) as shown:
        argv = [*GHVM, "token", "--raw"]
        done = subprocess.run(
            argv,
            stdout=shown,
            stderr=subprocess.PIPE,
            env=operator.environment,
            timeout=SECONDS,
            check=False,
            text=True,
        )
    assert done.returncode == ExitCode.USAGE
    assert done.stderr.startswith("error: a secret does not belong on a terminal\n→ ")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--keep"], "a runner that is kept is of no use without its configuration"),
        (["--raw", "--json"], "--raw and --json exclude each other"),
        (["--label", "a,b"], "'a,b' cannot be a label"),
        (["--label", "a", "--label", "A"], "the label 'A' is given twice"),
        (["--label", "a", "--spec", "spec.json"], "--label and --spec exclude each other"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_github_is_asked(
    operator: Operator, words: list[str], says: str
) -> None:
    operator.sim.trouble("outage")
    done = operator.ghvm("token", *words)
    assert (done.returncode, done.stderr.splitlines()[0]) == (ExitCode.USAGE, f"error: {says}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_registration_deletes_it(operator: Operator, number: signal.Signals) -> None:
    operator.sim.faults.add(Rule(method="POST", path=JITCONFIG, delay=1))
    with operator.start("token") as process:
        operator.sim.faults.wait_used(1)
        process.send_signal(number)
        process.communicate(timeout=SECONDS)
    assert process.returncode == ExitCode.INTERRUPTED
    assert (operator.registered, operator.recorded) == ([], [])


def test_a_second_signal_leaves_the_deletion_to_gc(operator: Operator) -> None:
    operator.sim.faults.add(Rule(method="DELETE", path="*/actions/runners/*", delay=600))
    with operator.start("token") as process:
        operator.sim.faults.wait_used(1)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=SECONDS)
    assert process.returncode == ExitCode.INTERRUPTED
    (name,) = operator.registered
    assert told == f"warning: {name} may still be registered\n\n"  # click ends the line of a terminal's ^C
    operator.sim.faults.clear()
    assert operator.ghvm("gc").stdout == f"{name}: removed\n"
    assert (operator.registered, operator.recorded) == ([], [])


def test_while_it_is_at_work_it_is_no_run_to_stop(operator: Operator) -> None:
    operator.sim.faults.add(Rule(method="DELETE", path="*/actions/runners/*", delay=600))
    with operator.start("token") as process:
        operator.sim.faults.wait_used(1)
        stopped, seen = operator.ghvm("stop", "--all"), operator.ghvm("ps")
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=SECONDS)
    assert (stopped.returncode, stopped.stdout, stopped.stderr) == (0, "", "")
    assert (seen.stdout, seen.stderr) == ("", f"no runs in {operator.runs}\n")
    operator.sim.faults.clear()
    assert operator.ghvm("gc").returncode == ExitCode.OK


@pytest.mark.timeout(300)
def test_killed_at_any_moment_it_leaves_what_gc_removes(operator: Operator) -> None:
    """SIGKILL right before each change that it makes, on this host or at GitHub."""
    journal = operator.directory / "journal"
    program = (sys.executable, "-m", "tests.mortal", str(journal))
    assert operator.ghvm("token", program=(*program, "")).returncode == ExitCode.OK
    moments = journal.read_text(encoding="utf-8").splitlines()
    beginning = next(number for number, moment in enumerate(moments) if ".new-ghvm-token" in moment)
    assert any(moment.startswith("DELETE") for moment in moments[beginning:])
    for moment in moments[beginning:]:
        killed = operator.ghvm("token", program=(*program, moment))
        assert killed.returncode == -signal.SIGKILL, (moment, killed.stderr)
        _collect(operator, moment)


def _collect(operator: Operator, moment: str) -> None:
    """A registration that was asked for and never answered may still appear: gc waits for that."""
    done = operator.ghvm("gc")
    for name in operator.recorded:
        assert done.returncode == ExitCode.INFRASTRUCTURE, moment
        record = read_record(operator.runs / name)
        assert record is not None
        assert record.runner is not None
        long_ago = record.runner.model_copy(update={"asked": record.runner.asked - 3600})
        (operator.runs / name / RECORD).write_bytes(encode_record(record.model_copy(update={"runner": long_ago})))
    if operator.recorded:
        assert operator.ghvm("gc").returncode == ExitCode.OK, moment
    assert (operator.registered, operator.recorded) == ([], []), moment
