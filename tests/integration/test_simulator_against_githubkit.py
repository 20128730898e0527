"""An independent client, generated from GitHub's OpenAPI description, must be able to read the simulator's answers."""

import hashlib
import io
import tarfile
import time
from collections.abc import Iterator
from typing import Any

import jwt
import pytest
import requests
from githubkit import AppAuthStrategy, GitHub, TokenAuthStrategy
from githubkit.exception import RequestFailed
from githubkit_schemas.latest.models import (
    BasicError,
    Installation,
    OrgsOrgActionsRunnersGenerateJitconfigPostResponse201,
    OrgsOrgActionsRunnersGetResponse200,
    Runner,
    ValidationErrorSimple,
)

from ghrunner_vm.simulator.model import Group
from ghrunner_vm.simulator.server import Simulator

SCOPES = ("/orgs/demo-org", "/repos/demo-org/demo", "/enterprises/demo-enterprise")
JIT = {"name": "one", "runner_group_id": 1, "labels": ["demo", "x64"]}


@pytest.fixture(scope="module")
def sim() -> Iterator[Simulator]:
    with Simulator(guest_host="127.0.0.1") as simulator:
        yield simulator


@pytest.fixture(scope="module")
def app(sim: Simulator) -> Iterator[GitHub[AppAuthStrategy]]:
    auth = AppAuthStrategy(sim.client_id, sim.private_key_pem)
    with GitHub(auth, base_url=sim.url, http_cache=False, auto_retry=False, trust_env=False) as client:
        yield client


@pytest.fixture(scope="module")
def org(sim: Simulator, app: GitHub[AppAuthStrategy]) -> Iterator[GitHub[Any]]:
    number = app.rest.apps.get_org_installation("demo-org").parsed_data.id
    auth = app.auth.as_installation(number)
    with GitHub(auth, base_url=sim.url, http_cache=False, auto_retry=False, trust_env=False) as client:
        yield client


@pytest.fixture(scope="module")
def person(sim: Simulator) -> Iterator[GitHub[TokenAuthStrategy]]:
    auth = TokenAuthStrategy(sim.personal_token)
    with GitHub(auth, base_url=sim.url, http_cache=False, auto_retry=False, trust_env=False) as client:
        yield client


def test_the_app(sim: Simulator, app: GitHub[AppAuthStrategy]) -> None:
    integration = app.rest.apps.get_authenticated().parsed_data
    assert integration is not None
    assert integration.client_id == sim.client_id


def test_installations(app: GitHub[AppAuthStrategy]) -> None:
    apps = app.rest.apps
    org = apps.get_org_installation("demo-org").parsed_data
    assert org.permissions.organization_self_hosted_runners == "write"
    assert apps.get_repo_installation("demo-org", "demo").parsed_data.id == org.id
    assert apps.get_installation(org.id).parsed_data.id == org.id
    user = apps.get_user_installation("demo-user").parsed_data
    everything = apps.list_installations().parsed_data
    assert {org.id, user.id} < {installation.id for installation in everything}
    assert "Enterprise" in {installation.target_type for installation in everything}


def test_enterprise_installation(sim: Simulator) -> None:
    """githubkit knows no such route, so it is asked with a JWT made here."""
    now = int(time.time())
    claims = {"iss": sim.client_id, "iat": now - 60, "exp": now + 480}
    token = jwt.encode(claims, sim.private_key_pem, "RS256")
    with GitHub(token, base_url=sim.url, http_cache=False, auto_retry=False, trust_env=False) as client:
        path = "/enterprises/demo-enterprise/installation"
        assert client.request("GET", path, response_model=Installation).parsed_data.app_id


def test_token(app: GitHub[AppAuthStrategy]) -> None:
    number = app.rest.apps.get_org_installation("demo-org").parsed_data.id
    create = app.rest.apps.create_installation_access_token
    token = create(number, permissions={"organization_self_hosted_runners": "write"}).parsed_data
    assert token.token.startswith("ghs_")
    with pytest.raises(RequestFailed) as failure:
        create(number, permissions={"contents": "write"})
    assert failure.value.response.status_code == 422
    assert "not granted" in failure.value.response.json()["message"]


def test_revoked_token(sim: Simulator, app: GitHub[AppAuthStrategy]) -> None:
    number = app.rest.apps.get_org_installation("demo-org").parsed_data.id
    token = app.rest.apps.create_installation_access_token(number).parsed_data.token
    with GitHub(token, base_url=sim.url, http_cache=False, auto_retry=False, trust_env=False) as client:
        assert client.rest.apps.revoke_installation_access_token().status_code == 204
        with pytest.raises(RequestFailed) as failure:
            client.rest.actions.list_self_hosted_runners_for_org("demo-org")
    assert failure.value.response.status_code == 401


def test_organization(org: GitHub[Any]) -> None:
    actions = org.rest.actions
    made = actions.generate_runner_jitconfig_for_org("demo-org", name="org-1", runner_group_id=1, labels=["a"])
    runner = made.parsed_data.runner
    assert (runner.status, runner.busy, runner.os) == ("offline", False, "unknown")
    assert [label.name for label in runner.labels] == ["a"]
    listed = actions.list_self_hosted_runners_for_org("demo-org", name="org-1").parsed_data
    assert [found.id for found in listed.runners] == [runner.id]
    assert actions.get_self_hosted_runner_for_org("demo-org", runner.id).parsed_data.name == "org-1"
    assert actions.delete_self_hosted_runner_from_org("demo-org", runner.id).status_code == 204
    assert actions.list_runner_applications_for_org("demo-org").parsed_data[0].architecture == "x64"
    assert actions.create_registration_token_for_org("demo-org").parsed_data.token
    groups = actions.list_self_hosted_runner_groups_for_org("demo-org").parsed_data
    assert actions.get_self_hosted_runner_group_for_org("demo-org", 1).parsed_data.name == "Default"
    assert groups.total_count == 2


def test_the_repositories_of_a_group(sim: Simulator, org: GitHub[Any]) -> None:
    sim.state.groups[3] = Group(3, "Few", repositories=("demo-org/one", "demo-org/two"))
    actions = org.rest.actions
    assert actions.get_self_hosted_runner_group_for_org("demo-org", 3).parsed_data.visibility == "selected"
    listed = actions.list_repo_access_to_self_hosted_runner_group_in_org("demo-org", 3).parsed_data
    assert [repository.full_name for repository in listed.repositories] == ["demo-org/one", "demo-org/two"]
    del sim.state.groups[3]


def test_repository(org: GitHub[Any]) -> None:
    actions = org.rest.actions
    where = ("demo-org", "demo")
    made = actions.generate_runner_jitconfig_for_repo(*where, name="repo-1", runner_group_id=1, labels=["a"])
    runner = made.parsed_data.runner
    assert actions.list_self_hosted_runners_for_repo(*where, name="repo-1").parsed_data.total_count == 1
    assert actions.get_self_hosted_runner_for_repo(*where, runner.id).parsed_data.name == "repo-1"
    assert actions.delete_self_hosted_runner_from_repo(*where, runner.id).status_code == 204
    assert len(actions.list_runner_applications_for_repo(*where).parsed_data) == 3
    assert actions.create_registration_token_for_repo(*where).parsed_data.token


def test_the_downloads_are_what_their_checksums_say(sim: Simulator, org: GitHub[Any]) -> None:
    for download in org.rest.actions.list_runner_applications_for_org("demo-org").parsed_data:
        assert download.download_url.startswith(sim.url)
        content = requests.get(download.download_url, timeout=30).content
        assert hashlib.sha256(content).hexdigest() == download.sha256_checksum
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            listener = archive.extractfile("./bin/Runner.Listener")
            assert listener is not None
            assert f"\nVERSION={sim.state.runner_version}\n" in listener.read().decode()
    assert requests.get(f"{sim.url}/_releases/download/v1.0.0/other.tar.gz", timeout=30).status_code == 404


def test_enterprise_with_a_personal_token(person: GitHub[Any]) -> None:
    """The generated methods cover no enterprise runners; their answers have the organization's models."""
    base = "/enterprises/demo-enterprise/actions/runners"
    jit_model = OrgsOrgActionsRunnersGenerateJitconfigPostResponse201
    made = person.request("POST", f"{base}/generate-jitconfig", json=JIT, response_model=jit_model).parsed_data
    listed = person.request("GET", base, response_model=OrgsOrgActionsRunnersGetResponse200).parsed_data
    assert [runner.name for runner in listed.runners] == ["one"]
    one = person.request("GET", f"{base}/{made.runner.id}", response_model=Runner).parsed_data
    assert one.id == made.runner.id
    assert person.request("DELETE", f"{base}/{one.id}").status_code == 204


def test_rate_limit(org: GitHub[Any]) -> None:
    resources = org.rest.rate_limit.get().parsed_data.resources
    assert resources.core.limit == 5000
    assert resources.actions_runner_registration is not None


@pytest.mark.parametrize("scope", SCOPES)
def test_errors(sim: Simulator, person: GitHub[Any], scope: str) -> None:
    base = f"{scope}/actions/runners"
    person.request("POST", f"{base}/generate-jitconfig", json={**JIT, "name": "taken"})
    job = sim.state.enqueue(["none-has-this"], "true")
    runner = person.request("GET", base, params={"name": "taken"}).json()["runners"][0]
    sim.state.assign(job.id, runner["id"])
    models = {404: BasicError, 409: BasicError, 422: ValidationErrorSimple}
    refusals = [
        (404, "GET", f"{base}/999999", None),
        (409, "POST", f"{base}/generate-jitconfig", {**JIT, "name": "taken"}),
        (422, "POST", f"{base}/generate-jitconfig", {**JIT, "name": "x", "labels": []}),
        (422, "DELETE", f"{base}/{runner['id']}", None),
    ]
    for status, method, path, body in refusals:
        with pytest.raises(RequestFailed) as failure:
            person.request(method, path, json=body, error_models={str(status): models[status]})
        response = failure.value.response
        assert response.status_code == status
        assert response.parsed_data.message == response.json()["message"]
    assert response.json()["message"] == 'Bad request - Runner "taken" is still running a job'
