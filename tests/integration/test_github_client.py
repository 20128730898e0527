"""The GitHub client against the simulator: registrations, sights, removals, lists."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from pydantic import SecretStr

from ghrunner_vm.errors import InfrastructureError, PermanentError, UsageError
from ghrunner_vm.github.auth import AppAuth, TokenAuth
from ghrunner_vm.github.client import GitHub
from ghrunner_vm.github.faults import LostResponse, NameTaken, PermissionLost
from ghrunner_vm.github.limits import RateLimited
from ghrunner_vm.github.models import JitConfig, Presence, Removal, Sight
from ghrunner_vm.github.scope import Scope
from ghrunner_vm.github.transport import Unreachable
from ghrunner_vm.simulator.faults import Rule
from ghrunner_vm.simulator.model import Registration
from ghrunner_vm.simulator.model import Scope as SimScope
from ghrunner_vm.simulator.server import Simulator
from tests.integration.virtual_clock import VirtualTime

ORG = Scope.parse("org:demo-org")
RUNNER = "*/actions/runners/[0-9]*"
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
    auth = AppAuth(sim.client_id, sim.private_key_pem.encode())
    with GitHub(sim.url, ORG, auth, clock=time.clock) as client:
        yield client


def register(github: GitHub, name: str = "ghvm-1") -> JitConfig:
    return github.generate_jitconfig(name, group_id=1, labels=["demo", "x64"])


@pytest.mark.parametrize("scope", ["org:demo-org", "repo:demo-org/thing", "repo:demo-user/thing"])
def test_a_registration_from_birth_to_removal(sim: Simulator, time: VirtualTime, scope: str) -> None:
    auth = AppAuth(sim.client_id, sim.private_key_pem.encode())
    with GitHub(sim.url, Scope.parse(scope), auth, clock=time.clock) as github:
        made = register(github)
        assert made.name == "ghvm-1"
        assert len(made.encoded.get_secret_value()) > 1000
        assert made.encoded.get_secret_value() not in repr(made)
        runner = github.runner(made.runner_id)
        assert runner is not None
        assert [label.name for label in runner.labels] == ["demo", "x64"]
        assert github.runner_named("ghvm-1") == runner
        assert github.runner_named("ghvm") is None
        assert github.sight(made.runner_id, made.name) == Sight(Presence.OFFLINE)
        assert github.remove(made.runner_id, made.name) is Removal.REMOVED
        assert github.runner(made.runner_id) is None
        assert github.sight(made.runner_id, made.name) == Sight(Presence.GONE)
        assert github.remove(made.runner_id, made.name) is Removal.GONE


def test_an_enterprise_works_with_a_token_only(sim: Simulator, time: VirtualTime) -> None:
    scope = Scope.parse("enterprise:demo-enterprise")
    with GitHub(sim.url, scope, TokenAuth(sim.personal_token), clock=time.clock) as github:
        assert register(github).name == "ghvm-1"
    app = AppAuth(sim.client_id, sim.private_key_pem.encode())
    with GitHub(sim.url, scope, app, clock=time.clock) as github, pytest.raises(PermanentError, match="no App"):
        register(github)


def test_a_busy_runner_is_seen_and_not_removed(sim: Simulator, github: GitHub) -> None:
    made = register(github)
    idle = github.sight(made.runner_id, made.name)
    job = sim.state.enqueue(["demo"], "true")
    sim.state.assign(job.id, made.runner_id)
    assert not idle.busy
    assert github.sight(made.runner_id, made.name).busy
    assert github.remove(made.runner_id, made.name) is Removal.BUSY


def test_a_sight_that_did_not_change_is_free(github: GitHub) -> None:
    made = register(github)
    first = github.sight(made.runner_id, made.name)
    before = github.requests_made
    assert [github.sight(made.runner_id, made.name) for _ in range(5)] == [first] * 5
    assert github.requests_made == before
    assert github.runner(made.runner_id) is not None
    assert github.requests_made == before + 1
    assert github.budget is not None
    assert github.budget.resource == "core"
    assert github.budget.remaining < github.budget.limit


def test_a_name_is_taken(github: GitHub) -> None:
    register(github)
    with pytest.raises(NameTaken) as caught:
        register(github)
    assert "x-github-request-id" in str(caught.value.details)


def test_a_lost_answer_is_not_asked_for_again(sim: Simulator, github: GitHub) -> None:
    sim.faults.add(Rule(method="POST", path="*/generate-jitconfig", cut="after", count=1))
    with pytest.raises(LostResponse) as caught:
        register(github)
    assert "new name" in str(caught.value.resolution)
    # A second POST would have been answered with 409.
    assert [runner.name for runner in sim.state.runners()] == ["ghvm-1"]
    left = github.runner_named("ghvm-1")
    assert left is not None
    assert github.remove(left.id, "ghvm-1") is Removal.REMOVED


@pytest.mark.parametrize("rule", [{"status": 502}, {"cut": "before"}, {"status": 201, "body": "<html>"}])
def test_a_registration_is_lost_after_any_answer_that_tells_nothing(
    sim: Simulator, github: GitHub, time: VirtualTime, rule: dict[str, object]
) -> None:
    sim.faults.add(Rule.model_validate({"method": "POST", "path": "*/generate-jitconfig", "count": 1, **rule}))
    with pytest.raises(LostResponse):
        register(github)
    assert time.slept == []
    assert register(github).runner_id == 1


@pytest.mark.parametrize("rule", [{"status": 500}, {"status": 503}, {"cut": "before"}])
def test_reads_are_tried_again_and_then_given_up(
    sim: Simulator, github: GitHub, time: VirtualTime, rule: dict[str, object]
) -> None:
    made = register(github)
    sim.faults.add(Rule.model_validate({"method": "GET", "path": RUNNER, "count": 3, **rule}))
    assert github.sight(made.runner_id, made.name).presence is Presence.OFFLINE
    assert time.slept == [1, 2, 4]
    sim.faults.add(Rule.model_validate({"method": "GET", "path": RUNNER, **rule}))
    with pytest.raises(Unreachable):
        github.runner(made.runner_id)
    assert time.slept == [1, 2, 4] * 2


def test_a_removal_whose_answer_is_lost_is_found_out(sim: Simulator, github: GitHub) -> None:
    made = register(github)
    sim.faults.add(Rule(method="DELETE", path=RUNNER, cut="after", count=1))
    assert github.remove(made.runner_id, made.name) is Removal.GONE
    assert sim.state.runners() == []


@pytest.mark.parametrize(
    "rule",
    [
        {"status": 404, "body": '{"message": "Not Found"}'},
        {"status": 403, "body": '{"message": "Resource not accessible by integration"}'},
        {"status": 200, "body": '{"total_count": 1, "runners": []}'},
    ],
)
def test_a_404_is_not_gone_unless_the_list_says_so(sim: Simulator, github: GitHub, rule: dict[str, object]) -> None:
    made = register(github)
    sim.faults.add(Rule(path=RUNNER, status=404))
    sim.faults.add(Rule.model_validate({"path": LIST, **rule}))
    with pytest.raises(PermissionLost):
        github.sight(made.runner_id, made.name)
    with pytest.raises(PermissionLost):
        github.remove(made.runner_id, made.name)


def test_a_list_that_is_down_or_limited_does_not_mean_gone(sim: Simulator, github: GitHub, time: VirtualTime) -> None:
    made = register(github)
    sim.faults.add(Rule(path=RUNNER, status=404))
    sim.faults.add(Rule(path=LIST, status=429, headers={"retry-after": "30"}, count=1))
    sim.faults.add(Rule(path=LIST, status=500))
    with pytest.raises(RateLimited):
        github.sight(made.runner_id, made.name)
    time.now += 30
    with pytest.raises(Unreachable):
        github.sight(made.runner_id, made.name)


def test_a_runner_that_the_list_still_shows_is_not_gone(sim: Simulator, github: GitHub) -> None:
    made = register(github)
    sim.faults.add(Rule(path=RUNNER, status=404))
    assert github.sight(made.runner_id, made.name) == Sight(Presence.OFFLINE)
    with pytest.raises(InfrastructureError, match="lists the runner"):
        github.remove(made.runner_id, made.name)


def test_a_check_finds_what_can_be_found_without_a_machine(github: GitHub) -> None:
    github.check("ghvm-1", 1)
    before = github.requests_made
    github.check("ghvm-1", 1)
    assert github.requests_made == before + 1
    github.check("ghvm-1", 2)
    with pytest.raises(PermanentError, match="has no runner group 99"):
        github.check("ghvm-1", 99)
    register(github)
    with pytest.raises(NameTaken):
        github.check("ghvm-1", 1)


def test_a_repository_has_no_groups(sim: Simulator, time: VirtualTime) -> None:
    scope = Scope.parse("repo:demo-org/thing")
    with GitHub(sim.url, scope, TokenAuth(sim.personal_token), clock=time.clock) as github:
        github.check("ghvm-1", 1)
        with pytest.raises(UsageError, match="no runner groups"):
            github.check("ghvm-1", 2)


def test_a_registration_with_a_token_that_github_no_longer_takes(sim: Simulator, github: GitHub) -> None:
    sim.faults.add(Rule(method="POST", path="*/generate-jitconfig", status=401, count=1))
    assert register(github).runner_id == 1


def test_a_token_that_cannot_be_had_is_no_lost_registration(sim: Simulator, github: GitHub) -> None:
    sim.faults.add(Rule(path="/app/*", status=500))
    with pytest.raises(Unreachable):
        register(github)


@pytest.mark.parametrize(
    ("status", "message", "resolution"),
    [
        (403, "Resource not accessible by integration", "Self-hosted runners"),
        (403, "Repository level self-hosted runners are disabled on this repository.", "allow self-hosted runners"),
        (
            403,
            "although you appear to have the correct authorization, your IP address is not permitted",
            "IP allow list",
        ),
        (404, "Not Found", "Check the name"),
        (301, "Moved Permanently", "new name"),
        (422, "Validation Failed", "sentence"),
    ],
)
def test_refusals_say_what_to_do(sim: Simulator, github: GitHub, status: int, message: str, resolution: str) -> None:
    headers = {"x-github-request-id": "AB:12", "location": "http://127.0.0.1:1/"}
    sim.faults.add(Rule(path=LIST, status=status, body=f'{{"message": "{message}"}}', headers=headers))
    with pytest.raises(PermanentError) as caught:
        github.runner_named("ghvm-1")
    assert f"GitHub answered {status}; {message}; x-github-request-id AB:12" == caught.value.details
    assert resolution in str(caught.value.resolution)


def test_a_full_group_is_not_for_ever(sim: Simulator, github: GitHub) -> None:
    sim.state.group_limit = 1
    register(github)
    with pytest.raises(InfrastructureError, match="group is full"):
        register(github, "ghvm-2")


def test_many_threads_share_one_client_and_one_token(github: GitHub) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda number: register(github, f"ghvm-{number}"), range(16)))
    assert len({one.runner_id for one in made}) == 16
    assert github.requests_made == 16 + 2


def test_all_runners_are_listed_page_by_page(sim: Simulator, github: GitHub) -> None:
    for number in range(250):
        sim.state.register(SimScope("orgs", "demo-org"), Registration(f"many-{number}", 1, ("demo",)))
    github.check("first", 1)  # so that a token is there
    before = github.requests_made
    assert [runner.name for runner in github.runners()] == [f"many-{number}" for number in range(250)]
    assert github.requests_made - before == 3


def test_a_list_that_never_ends_does(github: GitHub, sim: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ghrunner_vm.github.client._MOST_PAGES", 3)  # the real bound takes a thousand requests
    runner = {"id": 1, "name": "again", "os": "linux", "status": "offline", "busy": False}
    sim.faults.add(Rule(path=LIST, status=200, body=json.dumps({"total_count": 10**9, "runners": [runner] * 100})))
    with pytest.raises(InfrastructureError, match="more than 300 runners"):
        list(github.runners())


def test_a_list_that_may_not_be_seen(github: GitHub, sim: Simulator) -> None:
    sim.faults.add(Rule(path=LIST, status=403, body='{"message": "no"}'))
    with pytest.raises(PermanentError, match="cannot list the runners"):
        list(github.runners())


def test_a_server_without_rate_limits(github: GitHub, sim: Simulator) -> None:
    """GitHub Enterprise Server, as it is delivered."""
    assert github.rate_limits()["core"].limit == 5000
    sim.faults.add(Rule(path="/rate_limit", status=404, body='{"message": "Rate limiting is not enabled."}'))
    assert github.rate_limits() == {}


def test_the_app_proves_itself_once_and_again_after_five_minutes(github: GitHub, time: VirtualTime) -> None:
    """A proof that is good for eight minutes is not used up to the last one."""
    for _ in range(3):
        app, installation = github.app(), github.installation()
        assert app is not None
        assert installation is not None
        assert (app.slug, installation.permissions["metadata"]) == ("ghvm-demo", "read")
        time.now += 6 * 60


def test_an_enterprise_has_no_installation(sim: Simulator, time: VirtualTime) -> None:
    auth = AppAuth(sim.client_id, sim.private_key_pem.encode())
    enterprise = Scope.parse("enterprise:demo-enterprise")
    refusal = pytest.raises(PermanentError, match="no App manage an enterprise's runners")
    with GitHub(sim.url, enterprise, auth, clock=time.clock) as github, refusal:
        github.installation()


@pytest.mark.parametrize("scope", ["org:demo-org", "repo:demo-org/thing"])
def test_what_runner_github_serves(sim: Simulator, time: VirtualTime, scope: str) -> None:
    sim.state.runner_version = "2.400.1"
    auth = AppAuth(sim.client_id, sim.private_key_pem.encode())
    with GitHub(sim.url, Scope.parse(scope), auth, clock=time.clock) as github:
        served = github.downloads()
    assert {(download.os, download.architecture) for download in served} >= {("linux", "x64"), ("linux", "arm64")}
    assert served[0].filename == "actions-runner-linux-x64-2.400.1.tar.gz"
    assert len(str(served[0].sha256_checksum)) == 64


def test_the_downloads_of_an_enterprise_and_of_nobody(sim: Simulator, time: VirtualTime, github: GitHub) -> None:
    auth = TokenAuth(SecretStr(sim.personal_token))
    with GitHub(sim.url, Scope.parse("enterprise:demo-enterprise"), auth, clock=time.clock) as enterprise:
        assert enterprise.downloads()
    sim.faults.add(Rule(path="*/downloads", status=403, body='{"message": "Resource not accessible by integration"}'))
    with pytest.raises(PermanentError, match="list the downloads of the runner"):
        github.downloads()
