"""From settings to objects: what is refused, and what is passed on."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ghrunner_vm import app, config, process, runs
from ghrunner_vm.config import Settings
from ghrunner_vm.console import Advance, Meter
from ghrunner_vm.errors import UsageError
from ghrunner_vm.github.connect import github_client
from ghrunner_vm.record import RECORD, ProcessRecord, RunnerRecord, RunRecord, encode_record
from ghrunner_vm.spec import Spec
from tests.unit.github_on_loopback import SCOPE, github_on_loopback

SPEC = Spec.model_validate(
    {
        "label": "demo",
        "image": "ubuntu",
        "arch": "x86_64",
        "cpu-cores": 2,
        "ram": "2G",
        "root-disk": "20G",
        "timeout-seconds": 3600,
        "boot-timeout-seconds": 60,
        "idle-timeout-seconds": 120,
    }
)


def settings(**flags: object) -> Settings:
    return config.load(flags, environ={}, files=[])


def silent(_: str) -> None:
    raise AssertionError("nothing to warn of")


def test_a_plan_holds_what_spec_and_settings_say(tmp_path: Path) -> None:
    given = settings(
        state_dir=tmp_path,
        allow_host_loopback=True,
        no_shutdown_after_job=True,
        drain_seconds=7,
        ssh_port=2222,
        name="mine",
        poll_seconds=9,
    )
    plan = app.plan(given, SPEC)
    assert (plan.policy.boot, plan.policy.job, plan.policy.idle, plan.policy.drain) == (60, 3600, 120, 7)
    assert not plan.policy.shutdown_after_job
    assert plan.runs == app.runs_directory(given) == tmp_path / "runs"
    assert (plan.name, plan.ssh_port, plan.poll_seconds, plan.group_id) == ("mine", 2222, 9, 1)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"egress": "listed"}, "nothing is listed"),
        ({"egress_allow": ("10.1.2.3",), "egress_deny": ("10.0.0.0/8",)}, "10.1.2.3 is both allowed and denied"),
        ({"egress_allow": ("@cache",)}, "@cache names no set: there is none"),
    ],
)
def test_what_the_guest_may_reach_is_checked_before_anything_begins(
    tmp_path: Path, given: dict[str, object], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        app.plan(settings(state_dir=tmp_path, **given), SPEC)


def test_the_spec_adds_to_what_the_settings_allow() -> None:
    known = settings(egress_allow=("@cache",), egress_sets={"cache": ("10.0.0.5:80",)}, allow_host_loopback=True)
    wanted = SPEC.model_copy(update={"egress": "listed", "egress_allow": ("github.com:443",)})
    policy = app.egress_policy(known, wanted)
    assert (policy.mode, [str(entry) for entry in policy.allow]) == (
        "listed",
        ["127.0.0.0/8", "10.0.0.5:80", "github.com:443"],
    )


def test_only_root_may_touch_the_hosts_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)  # what is decided here depends on nothing else
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert app.network_kind(settings()) == "user"
    with pytest.raises(UsageError, match="Only root"):
        app.plan(settings(state_dir=tmp_path, network="namespace"), SPEC)


def test_a_directory_too_long_for_sockets_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)  # root's sockets have a path of their own
    monkeypatch.setenv("XDG_RUNTIME_DIR", f"/{'r' * 100}")
    with pytest.raises(UsageError, match="too long") as caught:
        app.plan(settings(state_dir=tmp_path, allow_host_loopback=True), SPEC)
    assert "XDG_RUNTIME_DIR" in str(caught.value.resolution)


@pytest.mark.parametrize(("uid", "shared"), [(0, True), (1000, False)])
def test_root_hands_out_user_ids_from_one_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uid: int, shared: bool
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)  # the tests run as one user only
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    states = (tmp_path / "a", tmp_path / "b")
    plans = [app.plan(settings(state_dir=state, allow_host_loopback=True), SPEC) for state in states]
    assert (plans[0].identities == plans[1].identities) is shared


def test_a_client_needs_a_scope_and_credentials() -> None:
    with pytest.raises(UsageError, match="no organization"):
        github_client(settings(), silent)
    with pytest.raises(UsageError, match="no credentials"):
        github_client(settings(github_org="demo-org"), silent)


def test_a_token_is_enough() -> None:
    given = config.load({"github_org": "demo-org"}, environ={"GHVM_GITHUB_TOKEN": "secret-token"}, files=[])
    client = github_client(given, silent)
    assert (str(client.scope), client.api_url) == (SCOPE, "https://api.github.com")


def test_gc_asks_only_the_github_and_the_scope_that_are_configured(tmp_path: Path) -> None:
    given = settings(state_dir=tmp_path)
    with github_on_loopback() as (simulator, client):
        for run_id, url, scope in (
            ("demo-0001", simulator.url, SCOPE),
            ("demo-0002", simulator.url, "org:other"),
            ("demo-0003", "https://ghe.example", SCOPE),
        ):
            leave(app.runs_directory(given), run_id, RunnerRecord.of(name=run_id, api_url=url, scope=scope, asked=1.0))
        fates = [(one.id, one.fate) for one in app.collect_garbage(given, client)]
    assert fates == [("demo-0001", "removed"), ("demo-0002", "pending"), ("demo-0003", "pending")]
    assert [one.fate for one in app.collect_garbage(given, None)] == ["pending", "pending"]


def leave(directory: Path, run_id: str, runner: RunnerRecord) -> None:
    dead = ProcessRecord.of(pid=2, started=1 << 62)
    fields = {"boot_id": process.boot_id(), "supervisor": dead, "runner": runner, "label": "demo", "image": "ubuntu"}
    path = directory / run_id
    path.mkdir(parents=True, mode=0o700)
    (path / runs.LOCK).touch()
    (path / RECORD).write_bytes(encode_record(RunRecord.of(id=run_id, since=1.0, created=1.0, **fields)))


def test_a_bar_appears_with_the_first_byte_and_moves_by_what_was_added() -> None:
    told: list[object] = []

    @contextlib.contextmanager
    def bar(label: str, total: int | None) -> Iterator[Advance]:
        told.append((label, total))
        yield told.append
        told.append("end")

    with Meter(bar, "pulling") as meter:
        assert told == []
        meter.show(10, 100)
        meter.show(10, 100)
        meter.show(100, 100)
    assert told == [("pulling", 100), 10, 0, 90, "end"]


def test_no_bar_for_nothing() -> None:
    def bar(label: str, total: int | None) -> contextlib.AbstractContextManager[Advance]:
        raise AssertionError((label, total))

    with Meter(bar, "pulling"):
        pass


def test_where_nothing_can_be_written_nothing_is_to_be_learnt(tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text("egress-allow = 3", encoding="utf-8")
    for file in (tmp_path / "missing/learnt.toml", tmp_path, tmp_path / "other.toml"):
        with pytest.raises(UsageError, match=re.escape(str(file))):
            app.check_settings(settings(state_dir=tmp_path, egress_learn=file))


def test_a_name_server_is_an_address() -> None:
    assert settings(resolvers="192.0.2.1, ::1").resolvers == ("192.0.2.1", "::1")
    with pytest.raises(UsageError, match="resolvers"):
        settings(resolvers="nonsense")
