"""Settings: who wins, what is refused, and what an error says."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghrunner_vm import config
from ghrunner_vm.config import Settings, load, load_with_origins
from ghrunner_vm.errors import UsageError
from ghrunner_vm.urls import api_url, server_url


def written(directory: Path, name: str, text: str) -> Path:
    path = directory / name
    path.write_text(text)
    return path


def refusal(flags: dict[str, object] | None = None, environ: dict[str, str] | None = None, *files: Path) -> str:
    with pytest.raises(UsageError) as caught:
        load(flags or {}, environ=environ or {}, files=files)
    return f"{caught.value.brief}\n{caught.value.details}\n{caught.value.resolution}"


def test_each_layer_is_stronger_than_the_one_before(tmp_path: Path) -> None:
    system = written(tmp_path, "system.toml", "images-keep = 3\npoll-seconds = 3\nrunner-group-id = 3\nssh-port = 3")
    user = written(tmp_path, "user.toml", "images-keep = 4\npoll-seconds = 4\nrunner-group-id = 4")
    environ = {"GHVM_IMAGES_KEEP": "5", "GHVM_POLL_SECONDS": "5", "HOME": "/root"}
    loaded = load_with_origins({"images_keep": 6, "ssh_port": None}, environ=environ, files=[system, user])
    settings, origins = loaded.settings, loaded.origins
    assert (settings.images_keep, origins["images_keep"]) == (6, "flag --images-keep")
    assert (settings.poll_seconds, origins["poll_seconds"]) == (5, "environment GHVM_POLL_SECONDS")
    assert (settings.runner_group_id, origins["runner_group_id"]) == (4, str(user))
    assert (settings.ssh_port, origins["ssh_port"]) == (3, str(system))
    assert (settings.drain_seconds, origins["drain_seconds"]) == (600, "default")
    assert set(origins) == set(Settings.model_fields)


def test_missing_files_and_empty_variables_are_as_if_not_given(tmp_path: Path) -> None:
    assert load({}, environ={"GHVM_GITHUB_ORG": ""}, files=[tmp_path / "none.toml"]) == Settings()


@pytest.mark.parametrize("text", ["1", "true", "yes", "True"])
def test_booleans_of_the_environment(text: str) -> None:
    assert load({}, environ={"GHVM_NO_CACHE": text}, files=[]).no_cache
    assert not load({}, environ={"GHVM_NO_CACHE": "0"}, files=[]).no_cache


def test_a_stronger_layer_s_scope_hides_the_weaker_one_s(tmp_path: Path) -> None:
    file = written(tmp_path, "c.toml", 'github-org = "acme"')
    assert load({"github_repo": "me/mine"}, environ={}, files=[file]).scope() == "repo:me/mine"


def test_scope_is_exactly_one() -> None:
    assert load({"github_org": "acme"}, environ={}, files=[]).scope() == "org:acme"
    for flags in ({}, {"github_org": "acme", "github_enterprise": "big"}):
        with pytest.raises(UsageError) as caught:
            load(flags, environ={}, files=[]).scope()
        assert "--github-org NAME or --github-repo OWNER/NAME" in str(caught.value.resolution)


@pytest.mark.parametrize(
    ("flag", "value", "allowed"),
    [
        ("ssh_port", 65536, "1 to 65535"),
        ("images_keep", 0, "1 or more"),
        ("images_keep", True, "1 or more"),
        ("accel", "hvf", "auto, kvm or tcg"),
        ("github_repo", "acme", "OWNER/NAME"),
        ("github_repo", "acme/..", "OWNER/NAME"),
        ("github_org", "acme\n", "organization"),
        ("github_api_url", "http://github.example", "http for loopback only"),
        ("images_server", "ftp://host", "http or https"),
        ("name", "a/b", "letters, digits"),
        ("no_cache", "perhaps", "true or false"),
    ],
)
def test_an_error_names_the_source_the_value_and_what_is_allowed(flag: str, value: object, allowed: str) -> None:
    text = refusal({flag: value})
    option = "--" + flag.replace("_", "-")
    assert f"flag {option}" in text
    assert repr(str(value)) in text
    assert allowed in text


def test_an_error_names_the_variable_or_the_file(tmp_path: Path) -> None:
    assert "environment GHVM_SSH_PORT" in refusal({}, {"GHVM_SSH_PORT": "x"})
    file = written(tmp_path, "c.toml", "ssh-port = 0")
    text = refusal({}, {}, file)
    assert str(file) in text
    assert "ssh-port" in text


def test_unknown_keys_get_the_nearest_right_one(tmp_path: Path) -> None:
    assert '"GHVM_GITHUB_ORG"' in refusal({}, {"GHVM_GITHUB_ORGS": "acme"})
    for key in ("image-keep", "images_keep", "Images-Keep"):
        assert '"images-keep"' in refusal({}, {}, written(tmp_path, "c.toml", f"{key} = 1"))


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    assert "line 1" in refusal({}, {}, written(tmp_path, "c.toml", "github-org\n"))
    (tmp_path / "bad.toml").write_bytes(b"\xff")
    assert "bad.toml" in refusal({}, {}, tmp_path / "bad.toml")
    assert str(tmp_path) in refusal({}, {}, tmp_path)


def test_secrets_come_from_the_environment_only_and_are_never_shown(tmp_path: Path) -> None:
    settings = load({}, environ={"GHVM_GITHUB_TOKEN": "hush-hush"}, files=[])
    assert settings.github_token is not None
    assert settings.github_token.get_secret_value() == "hush-hush"
    assert "hush" not in repr(settings)
    assert "hush" not in refusal({}, {}, written(tmp_path, "c.toml", 'github-token = "hush-hush"'))
    with pytest.raises(TypeError):
        load({"github_token": "hush-hush"}, environ={}, files=[])


def test_secrets_in_the_wrong_place_are_not_repeated() -> None:
    assert "MIIE" not in refusal({"github_private_key": "-----BEGIN RSA PRIVATE KEY-----\nMIIE"})
    assert "hush" not in refusal({"github_api_url": "https://me:hush@github.example"})


def test_paths_in_a_file_are_beside_it_and_tilde_is_home(tmp_path: Path) -> None:
    file = written(tmp_path, "c.toml", 'github-private-key = "app.pem"')
    settings = load({"state_dir": "~/ghvm"}, environ={}, files=[file])
    assert settings.github_private_key == tmp_path / "app.pem"
    assert settings.state_dir == Path.home() / "ghvm"


def test_directories_of_root_and_of_a_user(monkeypatch: pytest.MonkeyPatch) -> None:
    # The user's id cannot be changed for a part of a test process, so it is the one thing replaced.
    settings = Settings()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert config.state_directory(settings) == Path("/var/lib/ghvm")
    assert config.images_directory(settings) == Path("/var/cache/ghvm/images")
    assert config.runtime_directory(settings, environ={}) == Path("/run/ghvm")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", "/home/me/state")
    monkeypatch.setenv("XDG_CACHE_HOME", "/home/me/cache")
    assert config.state_directory(settings) == Path("/home/me/state/ghvm")
    assert config.images_directory(settings) == Path("/home/me/cache/ghvm/images")
    assert config.runtime_directory(settings, environ={"XDG_RUNTIME_DIR": "/run/user/1000"}) == Path(
        "/run/user/1000/ghvm"
    )
    assert config.runtime_directory(settings, environ={}) == Path("/home/me/state/ghvm")


def test_where_the_sockets_of_runs_from_elsewhere_are(monkeypatch: pytest.MonkeyPatch) -> None:
    # As above.
    settings = Settings()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert config.runtime_directories(settings, environ={"XDG_RUNTIME_DIR": "/run/user/0"}) == [Path("/run/ghvm")]
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", "/home/me/state")
    login, cron = Path("/run/user/1000/ghvm"), Path("/home/me/state/ghvm")
    assert config.runtime_directories(settings, environ={"XDG_RUNTIME_DIR": "/run/user/1000"}) == [login, cron]
    assert config.runtime_directories(settings, environ={}) == [cron, login]
    own = config.runtime_directories(settings, environ={"XDG_RUNTIME_DIR": "/srv/mine"})
    assert own == [Path("/srv/mine/ghvm"), login, cron]


def test_directories_that_are_set() -> None:
    settings = load({"state_dir": "/s", "images_cache_dir": "/i"}, environ={}, files=[])
    assert config.state_directory(settings) == Path("/s")
    assert config.images_directory(settings) == Path("/i")


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8321", "http://localhost", "http://[::1]:80", "https://ghe.x/api/v3"]
)
def test_urls_that_may_get_a_secret(url: str) -> None:
    assert api_url(url + "/") == url


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1.evil.example", "http://10.0.0.1", "https://u@h", "https://h:99999", "https://h?x", "h", ""],
)
def test_urls_that_may_not(url: str) -> None:
    with pytest.raises(ValueError, match="must"):
        api_url(url)


@given(st.text(max_size=40))
def test_any_text_is_a_url_or_a_value_error(text: str) -> None:
    try:
        assert not server_url(text).endswith("/")
    except ValueError:
        return
