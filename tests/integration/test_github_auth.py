"""Who the client is to GitHub: installations, tokens, clocks, secrets."""

import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from pydantic import SecretStr

from ghrunner_vm.errors import GhvmError, PermanentError, UsageError
from ghrunner_vm.github.auth import AppAuth, TokenAuth
from ghrunner_vm.github.client import GitHub
from ghrunner_vm.github.limits import RateLimited
from ghrunner_vm.github.scope import Scope
from ghrunner_vm.github.transport import Timeouts, Transport, Unreachable
from ghrunner_vm.simulator.faults import Rule
from ghrunner_vm.simulator.identity import BadCredentials
from ghrunner_vm.simulator.server import Simulator
from tests.integration.github_stub import Reply, stub
from tests.integration.virtual_clock import VirtualTime

ORG = Scope.parse("org:demo-org")
TOKENS = "/app/installations/*/access_tokens"
EMPTY_LIST = '{"total_count": 0, "runners": []}'


@pytest.fixture
def time() -> VirtualTime:
    return VirtualTime()


@pytest.fixture
def sim(time: VirtualTime) -> Iterator[Simulator]:
    with Simulator(clock=time.clock) as simulator:
        yield simulator


@pytest.fixture
def auth(sim: Simulator) -> AppAuth:
    return AppAuth(sim.client_id, sim.private_key_pem.encode())


def permanent(sim: Simulator, time: VirtualTime, auth: AppAuth, scope: Scope = ORG) -> PermanentError:
    with GitHub(sim.url, scope, auth, clock=time.clock) as github, pytest.raises(PermanentError) as caught:
        github.runner_named("ghvm-1")
    return caught.value


@pytest.mark.parametrize(
    ("scope", "permissions"),
    [
        ("org:demo-org", {"organization_self_hosted_runners": "write"}),
        ("repo:demo-org/thing", {"administration": "write"}),
    ],
)
@pytest.mark.parametrize("stateless", [False, True])
def test_a_token_can_do_nothing_but_runners_and_dies_at_the_end(
    sim: Simulator, time: VirtualTime, auth: AppAuth, scope: str, permissions: Mapping[str, str], stateless: bool
) -> None:
    sim.state.identity.stateless_tokens = stateless
    parsed = Scope.parse(scope)
    with GitHub(sim.url, parsed, auth, clock=time.clock) as github:
        github.runner_named("ghvm-1")
        token = auth.bearer(Transport(sim.url, clock=time.clock), parsed).get_secret_value()
        principal = sim.state.identity.authenticate(f"Bearer {token}")
        assert principal.permissions == permissions
    with pytest.raises(BadCredentials):
        sim.state.identity.authenticate(f"Bearer {token}")


def test_a_token_is_renewed_before_its_last_five_minutes(sim: Simulator, time: VirtualTime, auth: AppAuth) -> None:
    transport = Transport(sim.url, clock=time.clock)
    first = auth.bearer(transport, ORG)
    time.now += 3600 - 301
    assert auth.bearer(transport, ORG) == first
    time.now += 2
    assert auth.bearer(transport, ORG) != first


def test_a_token_that_github_no_longer_takes_is_replaced_once(sim: Simulator, time: VirtualTime, auth: AppAuth) -> None:
    with GitHub(sim.url, ORG, auth, clock=time.clock) as github:
        first = auth.bearer(Transport(sim.url, clock=time.clock), ORG)
        sim.state.identity.revoke(first.get_secret_value())
        assert github.runner_named("ghvm-1") is None
        sim.faults.add(Rule(path="*/actions/runners", status=401, body='{"message": "Bad credentials"}'))
        with pytest.raises(PermanentError, match="does not accept the credentials"):
            github.runner_named("ghvm-1")


def test_an_end_without_github_is_still_an_end(sim: Simulator, time: VirtualTime, auth: AppAuth) -> None:
    with GitHub(sim.url, ORG, auth, clock=time.clock) as github:
        github.runner_named("ghvm-1")
        sim.faults.add(Rule(method="DELETE", path="/installation/token", cut="before"))
    assert time.slept == []


def test_the_token_s_post_may_be_repeated(sim: Simulator, time: VirtualTime, auth: AppAuth) -> None:
    sim.faults.add(Rule(method="POST", path=TOKENS, status=502, count=1))
    with GitHub(sim.url, ORG, auth, clock=time.clock) as github:
        assert github.runner_named("ghvm-1") is None


def test_an_app_that_is_suspended_or_not_installed_or_may_not(sim: Simulator, time: VirtualTime, auth: AppAuth) -> None:
    sim.state.identity.install("demo-org", "Organization", suspended=True)
    assert "suspended" in permanent(sim, time, auth).brief
    sim.state.identity.install("demo-org", "Organization", permissions={"organization_self_hosted_runners": "read"})
    assert "organization_self_hosted_runners: write" in str(permanent(sim, time, auth).resolution)
    assert "not installed on org:other" in permanent(sim, time, auth, Scope.parse("org:other")).brief


@pytest.mark.parametrize(("drift", "side"), [(3600, "60 minutes ahead of"), (-90_000, "25 hours behind")])
def test_a_wrong_clock_is_named(sim: Simulator, auth: AppAuth, drift: float, side: str) -> None:
    wrong = VirtualTime(VirtualTime().now + drift)
    error = permanent(sim, wrong, auth)
    assert side in error.brief
    assert "clock" in str(error.resolution)


def test_a_key_of_another_app_is_named(sim: Simulator, time: VirtualTime) -> None:
    other = AppAuth("Iv23liother", sim.private_key_pem.encode())
    assert "client ID and the private key" in str(permanent(sim, time, other).resolution)


def test_each_request_carries_github_s_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # requests reads the login of a host from ~/.netrc, which must not win over our token.
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login eve password wrong\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with stub([Reply(body=EMPTY_LIST)]) as server:
        GitHub(server.url + "/api/v3/", ORG, TokenAuth("tok")).runner_named("ghvm-1")
    ((request, headers),) = server.asked
    assert request == "GET /api/v3/orgs/demo-org/actions/runners?name=ghvm-1&per_page=100"
    assert headers["Authorization"] == "Bearer tok"
    assert headers["Accept"] == "application/vnd.github+json"
    assert headers["X-GitHub-Api-Version"] == "2022-11-28"
    assert headers["User-Agent"].startswith("ghvm/")


def test_a_cut_body_is_read_again(time: VirtualTime) -> None:
    with stub([Reply(body=EMPTY_LIST, cut=True), Reply(body=EMPTY_LIST)]) as server:
        assert GitHub(server.url, ORG, TokenAuth("tok"), clock=time.clock).runner_named("ghvm-1") is None
    assert len(server.asked) == 2


@pytest.mark.parametrize("body", ["", "<html>", "[]", '{"runners": []}', '{"total_count": "many", "runners": []}'])
def test_an_answer_of_another_form_is_an_error(time: VirtualTime, body: str) -> None:
    with stub([Reply(body=body)]) as server, pytest.raises(Unreachable, match="not what its API describes"):
        GitHub(server.url, ORG, TokenAuth("tok"), clock=time.clock).runner_named("ghvm-1")


def test_an_answer_without_an_end_is_refused(time: VirtualTime) -> None:
    with stub([Reply(body=" " * (5 << 20))]) as server, pytest.raises(Unreachable):
        GitHub(server.url, ORG, TokenAuth("tok"), clock=time.clock).runner_named("ghvm-1")


def test_a_secret_goes_to_https_or_loopback_only() -> None:
    with pytest.raises(UsageError, match="https"):
        GitHub("http://github.example", ORG, TokenAuth("tok"))


def test_a_redirect_does_not_carry_the_token_away(time: VirtualTime) -> None:
    with stub([Reply()]) as thief, stub([Reply(307, headers={"location": thief.url})]) as server:
        with pytest.raises(PermanentError, match="elsewhere"):
            GitHub(server.url, ORG, TokenAuth("tok"), clock=time.clock).runner_named("ghvm-1")
        assert thief.asked == []


def secrets_told(error: GhvmError) -> str:
    return f"{error!r} {vars(error)} {error.__cause__!r} {error.__context__!r}"


@pytest.mark.parametrize(
    "reply", [Reply(401, '{"message": "Bad credentials"}'), Reply(403), Reply(cut=True), Reply(500)]
)
def test_no_error_holds_the_token(time: VirtualTime, reply: Reply) -> None:
    client = TokenAuth(SecretStr("hush-hush"))
    with stub([reply]) as server, pytest.raises(GhvmError) as caught:
        GitHub(server.url, ORG, client, clock=time.clock).generate_jitconfig("a", group_id=1, labels=["x"])
    assert "hush" not in secrets_told(caught.value)


def test_a_token_that_would_break_a_header_is_refused_and_not_told(time: VirtualTime, auth: AppAuth) -> None:
    installation = Reply(body='{"id": 1, "permissions": {"organization_self_hosted_runners": "write"}}')
    token = Reply(201, '{"token": "hush\\nhush", "expires_at": "2099-01-01T00:00:00Z"}')
    with stub([installation, token]) as server, pytest.raises(Unreachable) as caught:
        GitHub(server.url, ORG, auth, clock=time.clock).runner_named("a")
    assert "token: must be one word" in str(caught.value.details)
    assert "hush" not in secrets_told(caught.value)


def test_a_limit_s_end_is_reckoned_by_github_s_clock(time: VirtualTime) -> None:
    with Simulator(clock=time.clock) as sim:
        headers = {"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int(time.now) + 90)}
        sim.faults.add(Rule(path="*/actions/runners", status=429, headers=headers))
        slow_by_an_hour = VirtualTime(time.now - 3600)
        with pytest.raises(RateLimited) as caught:
            GitHub(sim.url, ORG, TokenAuth(sim.personal_token), clock=slow_by_an_hour.clock).runner_named("a")
    assert caught.value.retry_after == 90


def test_an_exit_does_not_wait_for_a_github_that_hangs(auth: AppAuth, time: VirtualTime) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(30)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        transport = Transport(url, clock=time.clock, timeouts=Timeouts(read=10, total=10))

        def ask() -> None:
            with pytest.raises(Unreachable):
                auth.bearer(transport, ORG)

        asking = threading.Thread(target=ask)
        asking.start()
        visitor, _ = silent.accept()  # it asks, and so it has the lock
        auth.revoke(transport)
        assert asking.is_alive()
        time.now += 1000  # no second try
        visitor.close()
        asking.join(30)
        assert not asking.is_alive()


def test_a_missing_file_of_certificates_is_an_error_in_words(
    time: VirtualTime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "missing.pem"))
    transport = Transport("https://127.0.0.1:9", clock=time.clock)
    with pytest.raises(Unreachable) as caught:
        transport.send("GET", "/", bearer=SecretStr("secret"), tries=1)
    assert "missing.pem" in str(caught.value.details)
