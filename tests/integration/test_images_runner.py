"""GitHub's runner for an image: asked for, downloaded and checked over real HTTP."""

import gzip
import hashlib
import io
import os
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from pydantic import SecretStr

from ghrunner_vm.clock import SYSTEM
from ghrunner_vm.errors import GhvmError, InfrastructureError, PermanentError, UsageError
from ghrunner_vm.github.auth import TokenAuth
from ghrunner_vm.github.client import GitHub
from ghrunner_vm.github.models import RunnerDownload
from ghrunner_vm.github.scope import Scope
from ghrunner_vm.images.build import runner as runners
from ghrunner_vm.images.build.runner import RunnerTarball, RunnerWish
from ghrunner_vm.images.build.tarballs import TarballCache, WrongHash
from ghrunner_vm.images.errors import UnsafeCache
from ghrunner_vm.images.manifest import Arch
from ghrunner_vm.simulator import releases
from ghrunner_vm.simulator.faults import Rule
from ghrunner_vm.simulator.server import Simulator
from tests.integration.github_stub import Reply, stub

NAME = "actions-runner-linux-x64-2.337.0.tar.gz"
NEWEST = releases.tarball("2.337.0")
OLDER = releases.tarball("2.330.0")
DAY = datetime.fromtimestamp(releases.BUILT, UTC).date()


@pytest.fixture(scope="module")
def shared() -> Iterator[Simulator]:
    with Simulator(guest_host="127.0.0.1") as simulator:
        yield simulator


@pytest.fixture
def sim(shared: Simulator) -> Iterator[Simulator]:
    yield shared
    shared.faults.clear()


@dataclass
class Desk:
    """Somebody who wants runners."""

    sim: Simulator
    directory: Path
    told: list[str] = field(default_factory=list)
    shown: list[tuple[int, int | None]] = field(default_factory=list)

    def offered(self) -> Sequence[RunnerDownload]:
        auth = TokenAuth(SecretStr(self.sim.personal_token))
        with GitHub(self.sim.url, Scope.parse("org:demo-org"), auth) as github:
            return github.downloads()

    def get(self, what: str, sha256: str | None = None, arch: Arch = "x86_64") -> RunnerTarball:
        wish = RunnerWish(what, arch, sha256)
        cache = TarballCache(self.directory / "cache")
        return runners.runner(wish, self.offered, cache, warn=self.told.append, progress=self._show)

    def put(self, name: str, content: bytes) -> str:
        path = self.directory / name
        path.write_bytes(content)
        return str(path)

    @property
    def kept(self) -> list[str]:
        return sorted(path.name for path in (self.directory / "cache").glob("*"))

    def _show(self, done: int, total: int | None) -> None:
        self.shown.append((done, total))


class Unset(Desk):
    """Without GitHub settings."""

    def offered(self) -> Sequence[RunnerDownload]:
        raise UsageError("no organization, repository or enterprise is set")


@pytest.fixture
def desk(sim: Simulator, tmp_path: Path) -> Desk:
    return Desk(sim, tmp_path)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def refuse_downloads(sim: Simulator, **rule: object) -> None:
    sim.faults.add(Rule.model_validate({"path": "/_releases/*", **rule}))


@pytest.mark.parametrize("what", ["latest", "2.337.0", "v2.337.0"])
def test_the_runner_that_github_serves(desk: Desk, what: str) -> None:
    got = desk.get(what)
    assert (got.version, got.date, got.sha256, got.verified) == ("2.337.0", DAY, sha256(NEWEST), True)
    assert got.path.read_bytes() == NEWEST
    assert desk.shown[-1] == (len(NEWEST), len(NEWEST))
    assert desk.kept == [f"{sha256(NEWEST)}.tar.gz"]
    assert desk.told == []


def test_the_other_architecture(desk: Desk) -> None:
    assert desk.get("latest", arch="aarch64").version == "2.337.0"


def test_what_is_kept_is_not_fetched_again(desk: Desk) -> None:
    first = desk.get("latest")
    refuse_downloads(desk.sim, status=500)
    assert desk.get("latest") == first


def test_what_is_damaged_is_fetched_again(desk: Desk) -> None:
    desk.get("latest").path.write_bytes(b"damaged")
    assert desk.get("latest").path.read_bytes() == NEWEST


def test_several_at_once(desk: Desk) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(desk.get, ["latest"] * 4))) == 1
    assert desk.kept == [f"{sha256(NEWEST)}.tar.gz"]


def test_something_else_than_github_promised(desk: Desk) -> None:
    refuse_downloads(desk.sim, status=200, body="evil")
    with pytest.raises(WrongHash) as caught:
        desk.get("latest")
    assert sha256(b"evil") in str(caught.value.details)
    assert desk.kept == []


@pytest.mark.parametrize(
    ("rule", "error"),
    [
        ({"status": 404}, PermanentError),
        ({"status": 503}, InfrastructureError),
        ({"cut": "before"}, InfrastructureError),
    ],
)
def test_what_does_not_come(desk: Desk, rule: dict[str, object], error: type[GhvmError]) -> None:
    refuse_downloads(desk.sim, **rule)
    with pytest.raises(error) as caught:
        desk.get("latest")
    assert NAME in str(caught.value.details)
    assert desk.kept == []


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(body="x" * 1000, cut=True), "could not be downloaded"),
        (Reply(headers={"content-length": str(2 << 30)}), "too long for a runner"),
        (Reply(status=302, headers={"location": "file:///etc/passwd"}), "could not be downloaded"),
    ],
)
def test_answers_that_are_no_runner(desk: Desk, monkeypatch: pytest.MonkeyPatch, reply: Reply, words: str) -> None:
    with stub([reply]) as server:
        offer = desk.offered()[0].model_copy(update={"download_url": f"{server.url}/{NAME}"})
        monkeypatch.setattr(Desk, "offered", lambda _: (offer,))
        with pytest.raises(GhvmError, match=words):
            desk.get("latest")
        assert "Authorization" not in server.asked[0][1]
    assert desk.kept == []


def test_another_version_needs_a_hash(desk: Desk) -> None:
    with pytest.raises(UsageError, match=r"Nobody vouches for runner 2\.330\.0") as caught:
        desk.get("2.330.0")
    assert "--runner-sha256" in str(caught.value.resolution)
    got = desk.get("2.330.0", sha256=sha256(OLDER))
    assert (got.version, got.verified, got.path.read_bytes()) == ("2.330.0", True, OLDER)
    with pytest.raises(WrongHash):
        desk.get("2.331.0", sha256=sha256(b"other"))


def test_a_hash_that_is_none(desk: Desk) -> None:
    with pytest.raises(UsageError, match="--runner-sha256 is no SHA-256"):
        desk.get("latest", sha256="abc")


@pytest.mark.parametrize("what", ["latest", "2.337.0"])
def test_without_settings_github_cannot_be_asked(sim: Simulator, tmp_path: Path, what: str) -> None:
    with pytest.raises(UsageError, match="asks GitHub, and the settings do not suffice") as caught:
        Unset(sim, tmp_path).get(what)
    assert caught.value.details == "no organization, repository or enterprise is set"


def test_a_file_that_github_names(desk: Desk) -> None:
    got = desk.get(desk.put(NAME, NEWEST))
    assert (got.verified, got.version, got.date) == (True, "2.337.0", DAY)
    assert got.path.parent == desk.directory / "cache"
    assert desk.told == []


def test_a_file_that_only_has_its_name(desk: Desk) -> None:
    with pytest.raises(WrongHash):
        desk.get(desk.put(NAME, OLDER))
    assert desk.kept == []


def test_a_file_for_which_nobody_vouches(desk: Desk) -> None:
    path = desk.put("actions-runner-linux-x64-2.330.0.tar.gz", OLDER)
    assert not desk.get(path).verified
    assert desk.told == [
        f"nobody vouches for {path}: GitHub's list does not name it. Its SHA-256 is {sha256(OLDER)}",
    ]
    assert desk.get(path, sha256=sha256(OLDER)).verified
    assert len(desk.told) == 1
    with pytest.raises(WrongHash):
        desk.get(path, sha256=sha256(NEWEST))


def test_a_file_without_settings(sim: Simulator, tmp_path: Path) -> None:
    desk = Unset(sim, tmp_path)
    assert not desk.get(desk.put(NAME, NEWEST)).verified
    assert len(desk.told) == 1


def _packed(name: str, **attributes: object) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", format=tarfile.PAX_FORMAT) as archive:
        entry = tarfile.TarInfo(name)
        for key, value in attributes.items():
            setattr(entry, key, value)
        archive.addfile(entry, io.BytesIO())
    return packed.getvalue()


def test_the_date_is_the_newest_one(desk: Desk) -> None:
    path = desk.put(NAME, _packed("bin/Runner.Listener", mtime=datetime(2026, 10, 3, 23, 59, tzinfo=UTC).timestamp()))
    assert desk.get(path, sha256=sha256(Path(path).read_bytes())).date == date(2026, 10, 3)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"plain", "is no tarball"),
        (NEWEST[: len(NEWEST) // 2], "is no tarball"),
        (_packed("bin/other"), "holds no runner"),
        (_packed("bin/Runner.Listener", type=tarfile.SYMTYPE, linkname="x"), "holds no runner"),
        (_packed("bin/Runner.Listener", mtime=1e300), "is no tarball"),
    ],
    ids=["plain", "half", "another", "link", "date"],
)
def test_a_file_that_is_no_runner(desk: Desk, content: bytes, words: str) -> None:
    path = desk.put("actions-runner-linux-x64-2.330.0.tar.gz", content)
    with pytest.raises(GhvmError, match=words):
        desk.get(path)


def test_an_archive_that_would_fill_a_disk(desk: Desk) -> None:
    entry = tarfile.TarInfo("bin/Runner.Listener")
    entry.size = 9 << 30
    path = desk.put("actions-runner-linux-x64-2.330.0.tar.gz", gzip.compress(entry.tobuf()))
    with pytest.raises(GhvmError, match="too long for a runner"):
        desk.get(path)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("runner.tar.gz", "version of the runner cannot be told"),
        ("actions-runner-linux-arm64-2.330.0.tar.gz", "is a runner for arm64"),
    ],
)
def test_a_name_that_does_not_fit(desk: Desk, name: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        desk.get(desk.put(name, NEWEST))


def test_what_is_nothing(desk: Desk) -> None:
    with pytest.raises(UsageError, match=r"neither a file, nor a version such as 2\.330\.0, nor latest"):
        desk.get("newest")


def test_a_cache_that_others_may_change(desk: Desk) -> None:
    path = desk.get("latest").path
    path.parent.chmod(0o777)
    with pytest.raises(UnsafeCache):
        desk.get("latest")


def test_what_nobody_uses_any_more_goes(tmp_path: Path) -> None:
    """Each at its time: a tarball after a month without use, one that is being written after a day."""
    now = SYSTEM.wall()
    cache = TarballCache(tmp_path)
    kept = {name: cache.add([name.encode()], name)[0] for name in ("old", "used", "new")}
    for name, days in (("old", 31), ("used", 31), ("new", 29)):
        os.utime(kept[name], (now, now - days * 86400))
    for days in (0, 2):
        part = tmp_path / f".part-{days}"
        part.touch()
        os.utime(part, (now, now - days * 86400))
    assert cache.find(sha256(b"used")) == kept["used"]
    last, _ = cache.add([b"last"], "last")
    assert set(tmp_path.iterdir()) == {kept["used"], kept["new"], last, tmp_path / ".part-0"}
