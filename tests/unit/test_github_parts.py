"""The parts of the GitHub client that need no server: scopes, names, limits, keys."""

import signal
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from ghrunner_vm import config, process
from ghrunner_vm.config import Settings
from ghrunner_vm.errors import PermanentError, UsageError
from ghrunner_vm.github.auth import TokenAuth
from ghrunner_vm.github.connect import github_client
from ghrunner_vm.github.key import read_private_key
from ghrunner_vm.github.limits import Budget, budget, wait_seconds
from ghrunner_vm.github.scope import Scope, runner_name
from ghrunner_vm.github.signing import sign, signer
from ghrunner_vm.github.token import read_token

PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\n"
NOW = 1_000_000.0


@pytest.mark.parametrize(
    ("text", "path"),
    [("org:acme", "/orgs/acme"), ("repo:me/a.b", "/repos/me/a.b"), ("enterprise:big", "/enterprises/big")],
)
def test_scopes(text: str, path: str) -> None:
    scope = Scope.parse(text)
    assert (scope.path, str(scope)) == (path, text)


@pytest.mark.parametrize(
    "text", ["acme", "org:", "org:a/b", "repo:a", "repo:a/..", "org:a?x", "org:a\n", "user:me", ""]
)
def test_texts_that_are_no_scope(text: str) -> None:
    with pytest.raises(UsageError):
        Scope.parse(text)


def test_a_runner_s_name_is_new_each_time() -> None:
    names = {runner_name("x" * 55) for _ in range(100)}
    assert len(names) == 100
    assert {len(name) for name in names} == {64}


@given(st.text(max_size=70))
def test_names_hold_no_forbidden_character(prefix: str) -> None:
    try:
        name = runner_name(prefix)
    except UsageError:
        return
    assert not set(name) & set('"/:<>\\|*?\n ')
    assert len(name) <= 64


@pytest.mark.parametrize("prefix", ["", "x" * 56, "a b", "a/b", "a:b", "-a", "é"])
def test_prefixes_that_are_refused(prefix: str) -> None:
    with pytest.raises(UsageError):
        runner_name(prefix)


@pytest.mark.parametrize("status", [403, 429])
@pytest.mark.parametrize(
    ("headers", "message", "wait"),
    [
        ({"retry-after": "7", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "1000100"}, "secondary rate limit", 7),
        (
            {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1000100"},
            "You have exceeded a secondary rate limit",
            100,
        ),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "999000"}, "", 1),
        ({"x-ratelimit-remaining": "9", "x-ratelimit-reset": "1000100"}, "a Secondary Rate Limit", 60),
        ({"retry-after": "999999999"}, "", 86_400),
    ],
)
def test_the_order_in_which_a_limit_is_read(status: int, headers: dict[str, str], message: str, wait: float) -> None:
    assert wait_seconds(status, headers, message, NOW) == wait


def test_what_is_a_limit_without_headers() -> None:
    assert wait_seconds(403, {"retry-after": "soon"}, "Resource not accessible by integration", NOW) is None
    assert wait_seconds(429, {}, "", NOW) == 60
    assert wait_seconds(404, {"retry-after": "7"}, "", NOW) is None


def test_budget() -> None:
    headers = {"x-ratelimit-limit": "5000", "x-ratelimit-remaining": "4999", "x-ratelimit-reset": "12"}
    assert budget(headers) == Budget("core", 5000, 4999, 12)
    assert budget({**headers, "x-ratelimit-reset": "-1"}) is None


@pytest.mark.parametrize("token", ["", "a b", "a\n", "é"])
def test_a_token_that_none_is(token: str) -> None:
    with pytest.raises(UsageError) as caught:
        TokenAuth(token)
    assert not token or repr(token) not in str(vars(caught.value))


def test_a_key_that_is_no_rsa_key() -> None:
    curve = ec.generate_private_key(ec.SECP256R1())
    for pem in (PEM.encode(), b"", curve.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())):
        with signer() as program, pytest.raises(PermanentError, match="not a plain RSA key"):
            sign(program, "Iv1", pem.decode(), NOW)


def test_what_a_signer_signs() -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode()
    with signer() as program:
        token = sign(program, "Iv1", pem, NOW + 0.7)
    claims = jwt.decode(token, key.public_key(), algorithms=["RS256"], options={"verify_exp": False})
    assert claims == {"iss": "Iv1", "iat": NOW - 60, "exp": NOW + 480}


def test_a_signer_that_nobody_needs_ends() -> None:
    with_token = config.load({"github_org": "acme"}, environ={"GHVM_GITHUB_TOKEN": "secret"}, files=[])
    with signer() as program:
        github_client(with_token, lambda _: None, program)
        with pytest.raises(process.CommandFailed) as caught:
            program.finish(timeout=10)
    assert caught.value.code == -signal.SIGKILL


def test_a_signer_goes_when_nobody_asks_it() -> None:
    with signer() as program:
        assert program.finish(timeout=10) == ""  # its input ends when we die


def settings_with_key(directory: Path, mode: int, text: str = PEM) -> Settings:
    path = directory / "app.pem"
    path.write_text(text)
    path.chmod(mode)
    return Settings(github_private_key=path)


def test_a_private_key(tmp_path: Path) -> None:
    key = read_private_key(settings_with_key(tmp_path, 0o600), environ={})
    assert (key.pem, key.warning) == (PEM.encode(), None)
    assert "MIIE" not in repr(key)


def test_a_key_that_the_group_can_read_is_warned_about(tmp_path: Path) -> None:
    assert "chmod 600" in str(read_private_key(settings_with_key(tmp_path, 0o640), environ={}).warning)


def test_a_key_that_the_world_can_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PermanentError) as caught:
        read_private_key(settings_with_key(tmp_path, 0o604), environ={})
    assert f"chmod 600 {tmp_path / 'app.pem'}" in str(caught.value.resolution)


def test_files_that_are_no_key(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match="not a private key"):
        read_private_key(settings_with_key(tmp_path, 0o600, "ssh-ed25519 AAAA"), environ={})
    for path, said in ((tmp_path / "none", "cannot be read"), (tmp_path, "not a file")):
        with pytest.raises(PermanentError, match=said):
            read_private_key(Settings(github_private_key=path), environ={})


def test_the_key_of_systemd_is_used_when_none_is_set(tmp_path: Path) -> None:
    (tmp_path / "github-private-key").write_text(PEM)
    (tmp_path / "github-private-key").chmod(0o440)
    key = read_private_key(Settings(), environ={"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert (key.pem, key.warning) == (PEM.encode(), None)
    with pytest.raises(UsageError, match="no private key"):
        read_private_key(Settings(), environ={})


def test_the_token_of_systemd_is_used_unless_one_is_in_the_environment(tmp_path: Path) -> None:
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert read_token(Settings(), environ={}) is None
    assert read_token(Settings(), environ=environ) is None
    (tmp_path / "github-token").write_text("ghp_secret\n")
    (tmp_path / "github-token").chmod(0o440)
    token = read_token(Settings(), environ=environ)
    assert token is not None
    assert (token.get_secret_value(), "secret" in repr(token)) == ("ghp_secret", False)
    given = read_token(Settings(github_token="from-the-environment"), environ=environ)
    assert given is not None
    assert given.get_secret_value() == "from-the-environment"
    (tmp_path / "github-token").chmod(0o444)
    with pytest.raises(PermanentError, match="every user can read the token"):
        read_token(Settings(), environ=environ)


def test_a_service_with_a_token_needs_no_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "github-token").write_text("ghp_secret\n")
    (tmp_path / "github-token").chmod(0o600)
    settings = Settings(github_enterprise="our-enterprise")
    with pytest.raises(UsageError, match="no credentials"):
        github_client(settings, pytest.fail)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    with github_client(settings, pytest.fail) as client:
        assert str(client.scope) == "enterprise:our-enterprise"
