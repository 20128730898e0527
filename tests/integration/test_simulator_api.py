"""The simulator's GitHub API over real HTTP: what a client must be able to rely on, and to run into."""

from collections.abc import Iterator
from email.utils import parsedate_to_datetime

import jwt
import pytest
import requests

from ghrunner_vm.clock import Clock
from ghrunner_vm.simulator.faults import Rule
from ghrunner_vm.simulator.server import Simulator

TIMEOUT = 10
RUNNERS = "/orgs/demo-org/actions/runners"
JIT = {"name": "one", "runner_group_id": 1, "labels": ["demo"]}


class Time:
    """A wall clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def wall() -> Time:
    return Time()


@pytest.fixture
def sim(wall: Time) -> Iterator[Simulator]:
    with Simulator(clock=Clock(wall=wall)) as simulator:
        yield simulator


def call(sim: Simulator, method: str, path: str, *, token: str | None = None, **arguments: object) -> requests.Response:
    headers = {"Authorization": f"Bearer {token or sim.personal_token}"}
    headers |= arguments.pop("headers", {})  # type: ignore[call-overload]
    return requests.request(method, sim.url + path, headers=headers, timeout=TIMEOUT, **arguments)  # type: ignore[arg-type]


def app_jwt(sim: Simulator, wall: Time, **claims: object) -> str:
    usual = {"iss": sim.client_id, "iat": int(wall.now) - 60, "exp": int(wall.now) + 480}
    return jwt.encode({**usual, **claims}, sim.private_key_pem, "RS256")


def installation_token(sim: Simulator, wall: Time, **permissions: str) -> str:
    body = {"permissions": permissions} if permissions else {}
    answer = call(sim, "POST", "/app/installations/1/access_tokens", token=app_jwt(sim, wall), json=body)
    assert answer.status_code == 201
    return str(answer.json()["token"])


def test_a_good_jwt_is_accepted(sim: Simulator, wall: Time) -> None:
    assert call(sim, "GET", "/app", token=app_jwt(sim, wall)).status_code == 200


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"exp": 1_800_000_601}, "too far in the future"),
        ({"exp": 1_800_000_000}, "must be a numeric value representing the future time"),
        ({"iat": 1_800_000_001}, "'Issued at'"),
        ({"iss": "somebody"}, "'Issuer'"),
    ],
)
def test_a_bad_claim_is_refused(sim: Simulator, wall: Time, claims: dict[str, object], why: str) -> None:
    answer = call(sim, "GET", "/app", token=app_jwt(sim, wall, **claims))
    assert answer.status_code == 401
    assert why in answer.json()["message"]


def test_another_key_is_refused(sim: Simulator, wall: Time) -> None:
    with Simulator() as other:
        claims = {"iss": sim.client_id, "iat": int(wall.now), "exp": int(wall.now) + 60}
        forged = jwt.encode(claims, other.private_key_pem, "RS256")
    answer = call(sim, "GET", "/app", token=forged)
    assert (answer.status_code, answer.json()["message"]) == (401, "A JSON web token could not be decoded")


def test_a_token_expires_after_an_hour(sim: Simulator, wall: Time) -> None:
    token = installation_token(sim, wall)
    wall.now += 3599
    assert call(sim, "GET", RUNNERS, token=token).status_code == 200
    wall.now += 1
    assert call(sim, "GET", RUNNERS, token=token).status_code == 401


def test_permissions_are_honoured(sim: Simulator, wall: Time) -> None:
    token = installation_token(sim, wall, organization_self_hosted_runners="read")
    assert call(sim, "GET", RUNNERS, token=token).status_code == 200
    refused = call(sim, "POST", f"{RUNNERS}/generate-jitconfig", token=token, json=JIT)
    assert (refused.status_code, refused.json()["message"]) == (403, "Resource not accessible by integration")
    assert call(sim, "GET", "/repos/demo-org/x/actions/runners", token=token).status_code == 403
    assert call(sim, "GET", "/repos/demo-user/x/actions/runners", token=token).status_code == 404
    assert call(sim, "GET", "/enterprises/demo-enterprise/actions/runners", token=token).status_code == 403


def test_a_suspended_installation_gives_no_token(sim: Simulator, wall: Time) -> None:
    sim.state.identity.install("demo-org", "Organization", suspended=True)
    found = call(sim, "GET", "/orgs/demo-org/installation", token=app_jwt(sim, wall))
    assert found.json()["suspended_at"] is not None
    refused = call(sim, "POST", "/app/installations/1/access_tokens", token=app_jwt(sim, wall))
    assert refused.status_code == 403


@pytest.mark.parametrize(("form", "dots"), [("enabled", 2), ("disabled", 0)])
def test_both_token_formats(sim: Simulator, wall: Time, form: str, dots: int) -> None:
    headers = {"X-GitHub-Stateless-S2S-Token": form}
    answer = call(sim, "POST", "/app/installations/1/access_tokens", token=app_jwt(sim, wall), headers=headers)
    token = answer.json()["token"]
    assert (token.startswith("ghs_"), token.count(".")) == (True, dots)
    assert (len(token) == 40) == (dots == 0)
    assert call(sim, "GET", RUNNERS, token=token).status_code == 200


def test_no_authorization_and_no_user_agent(sim: Simulator) -> None:
    assert requests.get(sim.url + RUNNERS, timeout=TIMEOUT).status_code == 401
    refused = call(sim, "GET", RUNNERS, headers={"User-Agent": ""})
    assert refused.status_code == 403
    assert "User-Agent" in refused.text


def test_exactly_the_labels_asked_for(sim: Simulator) -> None:
    made = call(sim, "POST", f"{RUNNERS}/generate-jitconfig", json=JIT)
    assert made.status_code == 201
    assert [label["name"] for label in made.json()["runner"]["labels"]] == ["demo"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"labels": ["x"] * 101},
        {"labels": []},
        {"labels": ["a,b"]},
        {"name": "a/b"},
        {"name": "x" * 65},
        {"name": None},
        {"runner_group_id": "1"},
    ],
)
def test_a_request_that_does_not_fit(sim: Simulator, wrong: dict[str, object]) -> None:
    assert call(sim, "POST", f"{RUNNERS}/generate-jitconfig", json={**JIT, **wrong}).status_code == 422
    assert sim.state.runners() == []


def test_malformed_json_unknown_group_and_full_group(sim: Simulator) -> None:
    path = f"{RUNNERS}/generate-jitconfig"
    assert call(sim, "POST", path, data=b"{").status_code == 400
    assert call(sim, "POST", path, json={**JIT, "runner_group_id": 99}).status_code == 404
    sim.state.group_limit = 0
    refused = call(sim, "POST", path, json=JIT)
    assert refused.status_code == 422
    assert "has reached max limit" in refused.json()["message"]


def test_pages_and_links(sim: Simulator) -> None:
    for number in range(5):
        call(sim, "POST", f"{RUNNERS}/generate-jitconfig", json={**JIT, "name": f"r{number}"})
    names, url = [], f"{sim.url}{RUNNERS}?per_page=2"
    while url:
        answer = call(sim, "GET", url.removeprefix(sim.url))
        assert answer.json()["total_count"] == 5
        names += [runner["name"] for runner in answer.json()["runners"]]
        url = answer.links.get("next", {}).get("url", "")
    assert names == ["r0", "r1", "r2", "r3", "r4"]
    assert answer.links["first"]["url"].endswith("page=1")
    assert call(sim, "GET", f"{RUNNERS}?name=r3").json()["total_count"] == 1


def test_etag_rate_limit_and_304(sim: Simulator) -> None:
    first = call(sim, "GET", RUNNERS)
    again = call(sim, "GET", RUNNERS, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["x-ratelimit-used"] == first.headers["x-ratelimit-used"] == "1"
    call(sim, "POST", f"{RUNNERS}/generate-jitconfig", json=JIT)
    changed = call(sim, "GET", RUNNERS, headers={"If-None-Match": first.headers["etag"]})
    assert (changed.status_code, changed.headers["x-ratelimit-remaining"]) == (200, "4997")
    assert changed.headers["x-github-request-id"]


def test_the_rate_limit_runs_out_and_comes_back(sim: Simulator, wall: Time) -> None:
    sim.rates.limit = 1
    assert call(sim, "GET", RUNNERS).status_code == 200
    refused = call(sim, "GET", RUNNERS)
    assert (refused.status_code, refused.headers["x-ratelimit-remaining"]) == (403, "0")
    assert "API rate limit exceeded" in refused.json()["message"]
    wall.now = float(refused.headers["x-ratelimit-reset"])
    assert call(sim, "GET", RUNNERS).status_code == 200


def test_rate_limit_by_api_version(sim: Simulator) -> None:
    assert "rate" in call(sim, "GET", "/rate_limit").json()
    assert "rate" not in call(sim, "GET", "/rate_limit", headers={"X-GitHub-Api-Version": "2026-03-10"}).json()
    assert call(sim, "GET", "/rate_limit", headers={"X-GitHub-Api-Version": "1999-01-01"}).status_code == 400


def test_the_date_header_follows_the_clock(sim: Simulator, wall: Time) -> None:
    assert parsedate_to_datetime(call(sim, "GET", RUNNERS).headers["date"]).timestamp() == wall.now


def test_assigned_by_hand_is_busy_at_once(sim: Simulator) -> None:
    runner = call(sim, "POST", f"{RUNNERS}/generate-jitconfig", json=JIT).json()["runner"]
    job = sim.state.enqueue(["elsewhere"], "true")
    sim.state.assign(job.id, runner["id"])
    assert call(sim, "GET", f"{RUNNERS}/{runner['id']}").json()["busy"] is True
    assert call(sim, "DELETE", f"{RUNNERS}/{runner['id']}").status_code == 422
    assert call(sim, "POST", f"/_sim/runners/{runner['id']}/remove").status_code == 204
    assert call(sim, "GET", f"{RUNNERS}/{runner['id']}").status_code == 404
    assert call(sim, "GET", f"{RUNNERS}?name=one").json()["total_count"] == 0
    assert sim.state.job(job.id).conclusion == "failure"


def test_faults_answer_cut_and_end(sim: Simulator) -> None:
    sim.faults.add(Rule(path="/orgs/*", status=503, body="{}", headers={"retry-after": "7"}, count=1))
    faulty = call(sim, "GET", RUNNERS)
    assert (faulty.status_code, faulty.headers["retry-after"]) == (503, "7")
    sim.faults.add(Rule(method="POST", cut="before", count=1))
    sim.faults.add(Rule(method="POST", cut="after", count=1))
    for registered in (0, 1):
        with pytest.raises(requests.ConnectionError):
            call(sim, "POST", f"{RUNNERS}/generate-jitconfig", json=JIT)
        assert len(sim.state.runners()) == registered
    assert call(sim, "POST", f"{RUNNERS}/generate-jitconfig", json=JIT).status_code == 409


def test_faults_by_http(sim: Simulator) -> None:
    assert call(sim, "POST", "/_sim/faults", json={"status": 500, "delay": 0.01}).status_code == 204
    assert call(sim, "GET", RUNNERS).status_code == 500
    assert call(sim, "DELETE", "/_sim/faults").status_code == 204
    assert call(sim, "GET", RUNNERS).status_code == 200
    assert call(sim, "POST", "/_sim/faults", json={"nonsense": 1}).status_code == 422


def test_troubles_by_http(sim: Simulator) -> None:
    assert "outage" in call(sim, "GET", "/_sim/troubles").json()
    assert call(sim, "POST", "/_sim/troubles/outage").status_code == 204
    assert call(sim, "GET", RUNNERS).status_code == 503
    assert call(sim, "DELETE", "/_sim/troubles").status_code == 204
    assert call(sim, "GET", RUNNERS).status_code == 200
    assert call(sim, "POST", "/_sim/troubles/outrage").status_code == 404
