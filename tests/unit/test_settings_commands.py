"""`ghvm config`, `ghvm spec` and `ghvm completion`, on the command line."""

import json
import os
import pty
import select
import sys
import tomllib
from pathlib import Path
from subprocess import Popen, run  # noqa: TID251 a real terminal and a real shell

import jsonschema
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from ghrunner_vm import config, spec
from ghrunner_vm.cli import cli
from ghrunner_vm.commands.config.init import _toml
from ghrunner_vm.errors import PermanentError, UsageError

ROOT = Path(__file__).parents[2]
SECONDS = 60.0
GOOD = {
    "label": "demo",
    "image": "ubuntu-x86_64",
    "arch": "x86_64",
    "cpu-cores": 1,
    "ram": "1G",
    "root-disk": "1.5GiB",
    "timeout-seconds": 60,
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "user"))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path / "system"))
    return tmp_path


def ghvm(*words: str) -> Result:
    return CliRunner().invoke(cli, words)


def put(home: Path, where: str, text: str) -> Path:
    path = home / where / "ghvm/config.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_each_setting_tells_where_it_comes_from(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = put(home, "system", 'github-org = "system-org"\nimages-keep = 7\n')
    user = put(home, "user", 'github-org = "user-org"\nallow-emulation = true\n')
    monkeypatch.setenv("GHVM_GITHUB_TOKEN", "secret-token")
    monkeypatch.setenv("GHVM_POLL_SECONDS", "30")
    done = ghvm("config", "show")
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["SETTING", "VALUE", "FROM"],
        ["github-org", "user-org", str(user)],
        ["github-token", "(hidden)", "environment", "GHVM_GITHUB_TOKEN"],
        ["images-keep", "7", str(system)],
        ["allow-emulation", "true", str(user)],
        ["poll-seconds", "30", "environment", "GHVM_POLL_SECONDS"],
    ]
    document = json.loads(ghvm("config", "show", "--json").stdout)
    assert document["schema"] == 1
    assert document["settings"]["images-keep"] == {"value": 7, "from": str(system)}
    assert document["settings"]["accel"] == {"value": "auto", "from": "default"}
    assert set(document["settings"]) == {name.replace("_", "-") for name in config.Settings.model_fields}
    assert "secret-token" not in done.stdout + ghvm("config", "show", "--all").stdout + json.dumps(document)


def test_nothing_is_set() -> None:
    done = ghvm("config", "show")
    assert (done.stdout, "nothing is set" in done.stderr) == ("", True)


def test_where_things_are(home: Path) -> None:
    user = put(home, "user", "")
    found = json.loads(ghvm("config", "path", "--json").stdout)
    system = str(home / "system/ghvm/config.toml")
    assert found["files"] == [{"path": system, "exists": False}, {"path": str(user), "exists": True}]
    text = ghvm("config", "path").stdout
    assert [line.split()[0] for line in text.splitlines()] == [
        "WHAT",
        "settings",
        "settings",
        "state",
        "images",
        "sockets",
    ]


def test_checking(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = home / "app.pem"
    key.touch(mode=0o600)
    key.write_text("-----BEGIN RSA PRIVATE KEY-----\n-----END RSA PRIVATE KEY-----\n")
    put(home, "user", f'github-org = "my-org"\ngithub-client-id = "Iv1"\ngithub-private-key = "{key}"\n')
    good = ghvm("config", "check")
    assert (good.exit_code, good.stdout) == (0, f"good: {home}/user/ghvm/config.toml, for org:my-org\n")
    key.chmod(0o644)
    assert isinstance(ghvm("config", "check").exception, PermanentError)
    key.chmod(0o600)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)  # root's sockets have a path of their own
    monkeypatch.setenv("XDG_RUNTIME_DIR", f"/{'r' * 100}")
    deep = ghvm("config", "check").exception
    assert isinstance(deep, UsageError)
    assert deep.brief.startswith("the directory for sockets has a path too long")
    put(home, "user", 'github-orgg = "my-org"\n')
    misspelt = ghvm("config", "check").exception
    assert isinstance(misspelt, UsageError)
    assert misspelt.resolution == 'Did you mean "github-org"?'


def test_a_first_file_without_a_terminal(home: Path) -> None:
    done = ghvm("config", "init", "--github-org", "my-org", "--github-client-id", "Iv1", "--runner-group-id", "3")
    path = home / "user/ghvm/config.toml"
    assert (done.exit_code, done.stdout) == (0, f"{path}\n")
    assert path.read_text() == (
        "# Settings of ghvm. `ghvm config show --all` shows all there are.\n\n"
        "# Whose runners these are; github-repo for one repository, github-enterprise for an enterprise.\n"
        'github-org = "my-org"\n\n'
        "# The GitHub App that registers them.\n"
        'github-client-id = "Iv1"\n\n'
        "# Only ghvm's user may read it. A service hands it over by LoadCredential= instead.\n"
        'github-private-key = "/etc/ghvm/app.pem"\n\n'
        "# The number at the end of the group's page in the settings.\n"
        "runner-group-id = 3\n\n"
        "# Where images come from: `ghvm serve-images`, or any server of static files.\n"
        'images-server = "https://gha-self-hosted-images.infra.rust-lang.org"\n\n'
        '# What guests may reach beside the internet, as ["10.1.2.3:443", "127.0.0.1:5000"].\n'
        "# egress-allow =\n"
    )
    again = ghvm("config", "init")
    assert isinstance(again.exception, UsageError)
    assert 'github-org = "my-org"' in path.read_text()
    assert ghvm("config", "init", "--force").exit_code == 0
    assert "# github-org =\n" in path.read_text()


def test_a_value_that_cannot_be_used_is_not_written(home: Path) -> None:
    bad = ghvm("config", "init", "--github-org", "no such org").exception
    assert isinstance(bad, UsageError)
    assert bad.brief == f"{home}/user/ghvm/config.toml: github-org 'no such org' cannot be used"
    assert list(home.iterdir()) == []


def test_a_place_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """As without sudo; root itself may write everywhere but where the kernel has no place for files."""
    monkeypatch.setenv("XDG_CONFIG_DIRS", "/proc/nowhere")
    system = ghvm("config", "init", "--system").exception
    assert isinstance(system, PermanentError)
    assert system.brief == "/proc/nowhere/ghvm/config.toml cannot be written: No such file or directory"
    assert system.resolution == "Run it as root: sudo ghvm config init --system"
    (home / "file").touch()
    other = ghvm("config", "init", "--file", str(home / "file/config.toml")).exception
    assert isinstance(other, PermanentError)
    assert "--file" in str(other.resolution)
    unit = ghvm("systemd", "--install", "--directory", str(home / "file/system"))
    assert isinstance(unit.exception, PermanentError)
    (home / "ghvm@.service").mkdir()
    taken = ghvm("systemd", "--install", "--directory", str(home)).exception
    assert isinstance(taken, PermanentError)
    assert taken.brief == f"{home}/ghvm@.service cannot be read: Is a directory"
    assert "sudo ghvm systemd --install" in str(taken.resolution)


KEYS = st.sampled_from(["github-org", "github-private-key", "images-server"])


@given(st.dictionaries(KEYS, st.text(st.characters(codec="utf-8"))))
def test_any_text_survives_the_file(values: dict[str, str]) -> None:
    assert tomllib.loads(_toml({**values})) == values


def test_the_questions_are_asked_on_a_terminal(home: Path) -> None:
    ours, theirs = pty.openpty()
    argv = [sys.executable, "-m", "ghrunner_vm", "config", "init", "--file", str(home / "asked.toml")]
    answers = ["my-org", "Iv1.abc", "", "4", "http://127.0.0.1:8000"]
    said = b""
    with Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True) as child:
        os.close(theirs)
        for answer in answers:
            while not said.rstrip().endswith((b":", b"]")):
                readable, _, _ = select.select([ours], [], [], SECONDS)
                assert readable, said
                said += os.read(ours, 4096)
            said = b""
            os.write(ours, f"{answer}\n".encode())
        assert child.wait(SECONDS) == 0
    os.close(ours)
    assert tomllib.loads((home / "asked.toml").read_text()) == {
        "github-org": "my-org",
        "github-client-id": "Iv1.abc",
        "github-private-key": "/etc/ghvm/app.pem",
        "runner-group-id": 4,
        "images-server": "http://127.0.0.1:8000",
    }


# ---- specs ----


def test_all_specs_are_checked_and_all_faults_told(home: Path) -> None:
    good, bad, worse = (home / f"{name}.json" for name in ("good", "bad", "worse"))
    good.write_text(json.dumps(GOOD))
    bad.write_text(json.dumps({**GOOD, "rom": "1G"}))
    worse.write_text(json.dumps({**GOOD, "ram": "900T"}))
    done = ghvm("spec", "check", str(bad), str(good), str(worse))
    assert isinstance(done.exception, UsageError)
    assert done.exception.brief == "2 of 3 cannot be used"
    assert done.stdout == f"{good}: demo: ubuntu-x86_64 (x86_64), 1 cores, 1.0 GiB, disk 1.5 GiB, 1 min 0 s a job\n"
    assert 'Did you mean "ram"?' in done.stderr
    assert "the spec asks for 900.0 TiB of RAM" in done.stderr
    assert ghvm("spec", "check", str(good)).exit_code == 0


@pytest.mark.parametrize("path", sorted((ROOT / "instances").glob("*.json")), ids=lambda path: path.name)
def test_the_schema_takes_the_examples(path: Path) -> None:
    jsonschema.validate(json.loads(path.read_text()), json.loads(ghvm("spec", "schema").stdout))


CHANGES: list[dict[str, object]] = [
    {},
    {"labels": ["a", "b"]},
    {"idle-timeout-seconds": None},
    {"ram": "512m"},
    {"ram": " 1 GB "},
    {"ram": "512"},
    {"ram": 512},
    {"ram": "1K"},
    {"label": ""},
    {"label": "a,b"},
    {"label": " a"},
    {"label": "x" * 257},
    {"labels": "a"},
    {"labels": [""]},
    {"image": "../x"},
    {"arch": "i386"},
    {"cpu-cores": 0},
    {"cpu-cores": "4"},
    {"cpu_cores": 4},
    {"timeout-seconds": 0},
    {"timeout-seconds": 500_000},
    {"credential": "none"},
    {"engine": "xen"},
    {"colour": "red"},
]
"""Left to ghvm alone: labels that are there twice, sizes that are no whole MiB, 4.0 for 4, unprintable letters."""


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_the_schema_and_ghvm_judge_alike(home: Path, change: dict[str, object]) -> None:
    document = {**GOOD, **change}
    path = home / "spec.json"
    path.write_text(json.dumps(document))
    taken = jsonschema.Draft202012Validator(spec.schema()).is_valid(document)
    if taken:
        spec.load(path)
    else:
        with pytest.raises(UsageError):
            spec.load(path)


# ---- completion ----


def test_bash_completes_commands(home: Path) -> None:
    (home / "ghvm").write_text(f'#!/bin/sh\nexec {sys.executable} -m ghrunner_vm "$@"\n')
    (home / "ghvm").chmod(0o755)
    script = (
        f"PATH={home}:$PATH; source <(ghvm completion bash); COMP_WORDS=(ghvm im); COMP_CWORD=1; "
        '_ghvm_completion ghvm; echo "${COMPREPLY[@]}"'
    )
    done = run(["/bin/bash", "-c", script], capture_output=True, text=True, timeout=SECONDS, check=True)
    assert done.stdout.split() == ["images"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_a_script(shell: str) -> None:
    done = ghvm("completion", shell)
    assert (done.exit_code, "_GHVM_COMPLETE" in done.stdout) == (0, True)
