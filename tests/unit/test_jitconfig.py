"""JIT configs as GitHub sends them and as nobody should: what is shown, and what never is."""

import base64
import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghrunner_vm.github.jitconfig import BadJitConfig, ConfigFile, Entry, decode

SECRET = "q7Zt/SECRET+of=the?runner"  # has characters of every alphabet that a secret is written in
RUNNER = {
    "AgentId": "42",
    "AgentName": "ghvm-token-00c0ffee",
    "PoolId": "1",
    "PoolName": None,
    "Ephemeral": "True",
    "ServerUrl": f"https://user:pass@pipelines.actions.githubusercontent.com/tenant/?token={SECRET}#{SECRET}",
    "GitHubUrl": "",
    "WorkFolder": "_work",
    "MonitorSocketAddress": SECRET,
}
CREDENTIALS = {
    "Scheme": "OAuth",
    "Data": {
        "clientId": SECRET,
        "authorizationUrl": f"https://vstoken.actions.githubusercontent.com/_apis/oauth2/token/{SECRET}",
        "requireFipsCryptography": "True",
        "more": {"deeper": SECRET},
    },
}
KEY = {"d": SECRET, "modulus": SECRET, "exponent": "AQAB"}


def coded(content: object) -> str:
    return base64.b64encode(json.dumps(content).encode()).decode()


def config(**files: object) -> str:
    return coded({f".{name}": coded(content) for name, content in files.items()})


def values(files: tuple[ConfigFile, ...]) -> dict[str, str | None]:
    return {f"{file.name} {entry.key}": entry.value for file in files for entry in file.entries}


def test_what_is_shown_of_a_config() -> None:
    assert decode(config(runner=RUNNER, credentials=CREDENTIALS, credentials_rsaparams=KEY)) == (
        ConfigFile(
            ".runner",
            (
                Entry("AgentId", "42"),
                Entry("AgentName", "ghvm-token-00c0ffee"),
                Entry("PoolId", "1"),
                Entry("PoolName", "none"),
                Entry("Ephemeral", "True"),
                Entry("ServerUrl", "https://pipelines.actions.githubusercontent.com/tenant/"),
                Entry("GitHubUrl", ""),
                Entry("WorkFolder", "_work"),
                Entry("MonitorSocketAddress", None),
            ),
        ),
        ConfigFile(
            ".credentials",
            (
                Entry("Scheme", "OAuth"),
                Entry("Data.clientId", None),
                Entry("Data.authorizationUrl", "https://vstoken.actions.githubusercontent.com/…"),
                Entry("Data.requireFipsCryptography", "True"),
                Entry("Data.more", None),
            ),
        ),
        ConfigFile(".credentials_rsaparams", (Entry("d"), Entry("modulus"), Entry("exponent"))),
    )


@pytest.mark.parametrize("key", ["AgentId", "ServerUrl", "GitHubUrl", "Ephemeral", "WorkFolder", "PoolName"])
def test_a_secret_under_a_known_key_is_hidden(key: str) -> None:
    assert values(decode(config(runner={key: SECRET}))) == {f".runner {key}": None}


def test_keys_that_are_no_words_and_files_with_odd_names_are_not_repeated() -> None:
    odd = coded({f"../{SECRET}": coded({SECRET: SECRET, "good": SECRET})})
    assert values(decode(odd)) == {"file 1 key 1": None, "file 1 good": None}


SECRETS = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ!#%", min_size=12, max_size=30).map(lambda text: f"<{text}>")
KEYS = st.sampled_from([*RUNNER, *CREDENTIALS["Data"], "Scheme", "Data", "d", "new"]) | st.text(max_size=5)
NESTED = st.recursive(
    SECRETS,
    lambda inner: st.dictionaries(KEYS, inner, max_size=4) | st.lists(inner, max_size=3),
    max_leaves=12,
)
FILES = st.dictionaries(
    st.sampled_from([".runner", ".credentials", ".credentials_rsaparams", ".path"]) | st.text(max_size=5),
    st.dictionaries(KEYS, NESTED, max_size=6),
    min_size=1,
    max_size=5,
)


@given(FILES)
def test_no_value_that_is_not_allowed_is_ever_shown(files: dict[str, dict[str, object]]) -> None:
    """Whatever the files, keys and nesting: no value here has an allowed form, so none is shown."""
    decoded = decode(coded({name: coded(content) for name, content in files.items()}))
    assert [value for value in values(decoded).values() if value is not None] == []
    assert "<" not in "".join(entry.key for file in decoded for entry in file.entries)


@pytest.mark.parametrize(
    ("encoded", "why"),
    [
        ("", "it is not JSON"),
        ("not base64!", "it is not base64"),
        ("ü", "it is not base64"),
        ("A" * 70_000, "it has 70000 characters"),
        (coded([]), "it is no JSON object"),
        (coded({}), "it holds 0 files"),
        (coded({str(number): "" for number in range(17)}), "it holds 17 files"),
        (base64.b64encode(b"[" * 40_000).decode(), "it is not JSON"),
        (coded({".runner": {"AgentId": SECRET}}), ".runner is no text"),
        (coded({".runner": SECRET}), ".runner is not base64"),
        (coded({SECRET: "!"}), "file 1 is not base64"),
        (coded({".runner": coded("text")}), ".runner is no JSON object"),
        (coded({".runner": coded({str(number): 1 for number in range(65)})}), ".runner has 65 keys"),
        (coded({".runner": base64.b64encode(b"1" * 5000).decode()}), ".runner is not JSON"),
    ],
)
def test_what_is_no_config_is_an_error_without_any_of_it(encoded: str, why: str) -> None:
    with pytest.raises(BadJitConfig) as caught:
        decode(encoded)
    assert (caught.value.details, SECRET in f"{caught.value.args}") == (why, False)
    assert caught.value.resolution


@given(st.text() | st.binary().map(lambda raw: base64.b64encode(raw).decode()))
def test_nothing_else_can_go_wrong(encoded: str) -> None:
    with contextlib.suppress(BadJitConfig):
        assert decode(encoded)


@pytest.mark.parametrize(
    "url", ["http://[", "https://a b/", "ftp://host/", "https://us/er@host", "https://host/%41", "https://ho%st"]
)
def test_an_odd_url_is_hidden(url: str) -> None:
    assert values(decode(config(runner={"ServerUrl": url}))) == {".runner ServerUrl": None}
