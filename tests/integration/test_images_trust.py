"""Images that nobody vouches for, over real HTTP: pulled, found in the cache, noticed by a run, and run."""

import contextlib
import json
import os
import secrets
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ghrunner_vm import config
from ghrunner_vm.app import CachedImages
from ghrunner_vm.cli import cli
from ghrunner_vm.clock import SYSTEM
from ghrunner_vm.errors import ExitCode, GhvmError
from ghrunner_vm.images.errors import ImageCorrupt, ImageUntrusted
from ghrunner_vm.images.manifest import Manifest
from ghrunner_vm.images.prune import Rules, may_go, remove
from ghrunner_vm.images.pull import pull
from ghrunner_vm.images.remote import ImageServer
from ghrunner_vm.images.signing import SigningKey
from ghrunner_vm.images.store import MANIFEST, SIGNATURE, SIGNED, ImageStore
from ghrunner_vm.images.trust import trust
from ghrunner_vm.images.watch import newer
from ghrunner_vm.simulator.server import Simulator
from tests import guests
from tests.integration.images_site import COMMIT, Site, bundle, disk, site
from tests.lab import Lab

NAME = "ubuntu"
NEW, THIRD = "e" * 40, "f" * 40
OURS, SECOND, STRANGER = SigningKey.generate(), SigningKey.generate(), SigningKey.generate()
OLD_FILES = {f"{NAME}.qcow2": disk(1), f"{NAME}.kernel": b"kernel" * 1000}
FILES = {f"{NAME}.qcow2": disk(2), f"{NAME}.kernel": b"kernel" * 1000}


@pytest.fixture
def web() -> Iterator[Site]:
    with site() as mine:
        yield mine


class Host:
    """A host with a cache, a state directory, and keys that it trusts."""

    def __init__(self, root: Path, web: Site) -> None:
        self.web = web
        self.cache, self.state = root / "cache", root / "state"
        self.keys: tuple[SigningKey, ...] = (OURS, SECOND)
        self.warnings: list[str] = []

    def settings(self, **changes: object) -> config.Settings:
        keys = tuple(str(key.public) for key in self.keys) or None
        usual = {"images_server": self.web.url, "images_cache_dir": self.cache, "state_dir": self.state}
        return config.load({**usual, "images_trusted_keys": keys, **changes}, environ={}, files=[])

    @property
    def store(self) -> ImageStore:
        return ImageStore(self.cache, trust=trust(self.settings()))

    def pull(self) -> str:
        with ImageServer(self.web.url) as server:
            return pull(self.store, server, NAME).commit

    def fetch(self, **changes: object) -> str:
        """As a run does: the commit, or why there is none."""
        with ImageServer(self.web.url) as server:
            images = CachedImages(self.store, server, self.settings(**changes), no_bar, self.warnings.append)
            commit = images.fetch(NAME, lambda: False, lambda _manifest: None)
            with images.lease(commit, NAME) as image:
                assert os.pread(image.disk_fd, 4, 0) == b"QFI\xfb"
            return commit

    def command(self, *words: str) -> Result:
        keys = [word for key in self.keys for word in ("--images-trusted-keys", str(key.public))]
        where = ["--images-cache-dir", str(self.cache), "--state-dir", str(self.state)]
        return CliRunner().invoke(cli, ["images", *words, *keys, *where])


@contextlib.contextmanager
def no_bar(_label: str, _total: int | None) -> Iterator[Callable[[int], None]]:
    yield lambda _bytes: None


@pytest.fixture
def host(tmp_path: Path, web: Site, monkeypatch: pytest.MonkeyPatch) -> Host:
    for variable in ("XDG_CONFIG_HOME", "XDG_CONFIG_DIRS"):
        monkeypatch.setenv(variable, str(tmp_path))
    return Host(tmp_path, web)


def offer(
    web: Site,
    files: dict[str, bytes] = FILES,
    *,
    commit: str = NEW,
    key: SigningKey | None = OURS,
    serial: int = 20,
    **changes: object,
) -> Manifest:
    manifest = bundle(NAME, files).model_copy(update=changes)
    web.offer_bundle(manifest, files, commit=commit, key=key, serial=serial)
    return manifest


def good(host: Host) -> None:
    """The host has used the image of COMMIT."""
    offer(host.web, OLD_FILES, commit=COMMIT, serial=10)
    assert host.fetch() == COMMIT


# ---- what a server may offer instead ----


def _unsigned(web: Site) -> None:
    offer(web, key=None)


def _strange(web: Site) -> None:
    offer(web, key=STRANGER)


def _rubbish(web: Site) -> None:
    offer(web)
    web.files[f"/images/{NEW}/{NAME}.json.sig"] = b"<html>"


def _endless(web: Site) -> None:
    offer(web)
    web.files[f"/images/{NEW}/{NAME}.json.sig"] = b"x" * 100_000


def _of_another_manifest(web: Site) -> None:
    offer(web, OLD_FILES)
    signature = web.files[f"/images/{NEW}/{NAME}.json.sig"]
    offer(web)
    web.files[f"/images/{NEW}/{NAME}.json.sig"] = signature


def _higher_serial(web: Site) -> None:
    offer(web)
    path = f"/images/{NEW}/{NAME}.json.sig"
    web.files[path] = web.files[path].replace(b'"serial": 20', b'"serial": 21')


def _other_command_line(web: Site) -> None:
    manifest = offer(web)
    boot = manifest.boot.model_copy(update={"cmdline": "console=ttyS0 init=/bin/sh"})
    web.files[f"/images/{NEW}/{NAME}.json"] = manifest.model_copy(update={"boot": boot}).to_json()


def _rolled_back(web: Site) -> None:
    offer(web, serial=9)


def _rolled_back_by_another_key(web: Site) -> None:
    offer(web, key=SECOND, serial=9)


def _plain(web: Site) -> None:
    web.offer(NAME, disk(2), commit=NEW)


BAD = [
    (_unsigned, "is not signed"),
    (_strange, "signed with a key that is not trusted"),
    (_rubbish, "The signature of the image ubuntu is none"),
    (_endless, "The signature of the image ubuntu is none"),
    (_of_another_manifest, "The signature of the image ubuntu is wrong"),
    (_higher_serial, "The signature of the image ubuntu is wrong"),
    (_other_command_line, "The signature of the image ubuntu is wrong"),
    (_plain, "is a plain disk, which nobody can sign"),
]
OLDER = "is older than one that this host has used"
ROLLED_BACK = [(_rolled_back, OLDER), (_rolled_back_by_another_key, OLDER)]


def _name(value: object) -> str:
    return getattr(value, "__name__", "")


named = pytest.mark.parametrize(("cause", "words"), [*BAD, *ROLLED_BACK], ids=_name)


def test_a_signed_image_is_pulled_leased_and_remembered(host: Host) -> None:
    good(host)
    assert host.warnings == []
    with host.store.lease(COMMIT, NAME) as image:
        assert image.signature is not None
        assert (image.signature.key, image.signature.serial) == (OURS.public.id, 10)
    record = json.loads((host.state / "trust/serials.json").read_bytes())
    assert record["names"] == {NAME: {OURS.public.id: 10}}
    offer(host.web, key=SECOND, serial=11)
    assert host.fetch() == NEW


@named
def test_a_bad_publish_means_the_good_image_of_the_cache_and_a_warning(
    host: Host, cause: Callable[[Site], None], words: str
) -> None:
    good(host)
    cause(host.web)
    host.web.requests.clear()
    for _ in range(2):
        assert host.fetch() == COMMIT
    assert words in host.warnings[0]
    assert f"going on with the newest image in the cache, {COMMIT[:12]}" in host.warnings[0]
    assert host.web.downloads() == []
    with pytest.raises(ImageUntrusted, match=words):
        host.fetch(require_latest=True)


@pytest.mark.parametrize(("cause", "words"), BAD, ids=_name)
def test_without_a_good_image_it_is_an_error_of_the_server(
    host: Host, cause: Callable[[Site], None], words: str
) -> None:
    cause(host.web)
    with pytest.raises(ImageUntrusted, match=words) as caught:
        host.fetch()
    assert caught.value.exit_code == ExitCode.INFRASTRUCTURE
    assert host.store.images() == []
    assert not (host.state / "trust").exists()


@named
def test_a_run_that_looks_for_a_newer_image_refuses_it_as_well(
    host: Host, cause: Callable[[Site], None], words: str
) -> None:
    good(host)
    cause(host.web)
    with host.store.lease(COMMIT, NAME) as running, ImageServer(host.web.url) as server:
        with pytest.raises(ImageUntrusted, match=words):
            newer(server, host.store, running)
        offer(host.web, commit=THIRD, serial=21)
        assert newer(server, host.store, running) == THIRD


def test_what_is_only_noticed_may_be_taken_back(host: Host) -> None:
    good(host)
    offer(host.web, serial=20)
    with host.store.lease(COMMIT, NAME) as running, ImageServer(host.web.url) as server:
        assert newer(server, host.store, running) == NEW
    offer(host.web, OLD_FILES, commit=COMMIT, serial=10)
    assert host.fetch() == COMMIT


# ---- the cache ----


def test_an_image_from_before_there_were_keys_is_verified_when_it_is_used(host: Host) -> None:
    host.keys = ()
    offer(host.web)
    host.pull()
    host.keys = (OURS,)
    host.web.requests.clear()
    assert host.fetch() == NEW
    assert host.web.requests == [("/latest", None)]


@pytest.mark.parametrize("key", [None, STRANGER], ids=["unsigned", "strange"])
def test_a_bad_image_from_before_there_were_keys_is_not_used(host: Host, key: SigningKey | None) -> None:
    host.keys = ()
    offer(host.web, key=key)
    assert host.fetch() == NEW
    host.keys = (OURS,)
    with pytest.raises(ImageUntrusted):
        host.fetch()
    with pytest.raises(ImageUntrusted), host.store.lease(NEW, NAME):
        pytest.fail("it was leased")
    host.web.files.clear()  # the server is away, and what it has left in the cache is no help
    with pytest.raises(GhvmError):
        host.fetch()


def test_a_good_older_image_is_found_behind_a_bad_newer_one(host: Host) -> None:
    good(host)
    host.keys = ()
    offer(host.web, key=STRANGER)
    assert host.fetch() == NEW
    host.keys = (OURS,)
    assert host.fetch() == COMMIT


def _in_cache(host: Host, file: str) -> Path:
    path = host.store.path(NEW, NAME) / file
    path.chmod(0o644)
    return path


@pytest.mark.parametrize("file", [SIGNED, SIGNATURE])
def test_every_bit_that_was_signed_counts_in_the_cache_too(host: Host, file: str) -> None:
    offer(host.web)
    host.pull()
    path = _in_cache(host, file)
    content = path.read_bytes()
    for at in range(0, len(content), 37):
        if content[at : at + 1].isspace():
            continue  # white space in the signature's file means nothing
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        assert not host.store.has(NEW, NAME), at
    path.write_bytes(content)
    assert host.store.has(NEW, NAME)


@pytest.mark.parametrize("file", [SIGNED, SIGNATURE])
def test_a_signature_that_was_damaged_in_the_cache_is_fetched_again(host: Host, file: str) -> None:
    offer(host.web)
    host.pull()
    _in_cache(host, file).unlink()
    assert host.fetch() == NEW
    assert host.warnings == []
    assert len(host.web.downloads()) == 4


def test_what_boots_is_what_was_signed_whatever_the_manifest_in_the_cache_says(host: Host) -> None:
    manifest = offer(host.web)
    host.pull()
    boot = manifest.boot.model_copy(update={"cmdline": "console=ttyS0 init=/bin/sh"})
    _in_cache(host, MANIFEST).write_bytes(manifest.model_copy(update={"boot": boot}).to_json())
    with pytest.raises(ImageCorrupt, match="not the one that was signed"), host.store.lease(NEW, NAME):
        pytest.fail("it was leased")
    assert host.fetch() == NEW


def test_a_changed_disk_is_told_by_its_hash(host: Host) -> None:
    offer(host.web)
    host.pull()
    _in_cache(host, f"{NAME}.qcow2").write_bytes(disk(3))
    with pytest.raises(ImageCorrupt), host.store.lease(NEW, NAME):
        pytest.fail("it was leased")


def test_a_manifest_without_sizes_is_signed_like_any_other(host: Host) -> None:
    """What the store writes has them, so it is not byte by byte what was signed."""
    manifest = bundle(NAME, FILES)
    artifacts = {name: one.model_copy(update={"size": None}) for name, one in manifest.artifacts.items()}
    offer(host.web, artifacts=artifacts)
    assert host.fetch() == NEW
    with host.store.lease(NEW, NAME) as image:
        assert image.manifest == manifest


def test_the_record_of_serials_outlives_the_cache(host: Host) -> None:
    good(host)
    offer(host.web)
    assert host.fetch() == NEW
    for _ in remove(host.store, may_go(host.store.images(), Rules(everything=True))):
        continue
    assert host.store.images() == []
    offer(host.web, OLD_FILES, commit=COMMIT, serial=10)
    with pytest.raises(ImageUntrusted, match="older"):
        host.fetch()


def test_a_key_that_is_trusted_no_more_takes_its_images_with_it(host: Host) -> None:
    offer(host.web, key=SECOND, serial=1 << 50)
    assert host.fetch() == NEW
    host.keys = (OURS,)
    with pytest.raises(ImageUntrusted, match="not trusted"):
        host.fetch()
    offer(host.web, OLD_FILES, commit=COMMIT, serial=10)
    assert host.fetch() == COMMIT


# ---- commands ----


def test_the_pull_command_takes_and_remembers_signed_images_only(host: Host) -> None:
    offer(host.web)
    assert host.command("pull", NAME, "--images-server", host.web.url).exit_code == 0
    offer(host.web, commit=THIRD, serial=19)
    done = host.command("pull", NAME, "--images-server", host.web.url)
    assert isinstance(done.exception, ImageUntrusted)


def test_verify_tells_what_a_run_would_find(host: Host) -> None:
    offer(host.web)
    host.pull()
    document = json.loads(host.command("verify", NAME, "--json").stdout)
    assert document == {
        "schema": 1,
        "name": NAME,
        "commit": NEW,
        "deep": False,
        "files": sorted(FILES),
        "signature": {"key": OURS.public.id, "serial": 20},
    }
    assert "2 files read" in host.command("verify", f"{NAME}@{NEW[:4]}", "--deep").stdout
    host.keys = (STRANGER,)
    assert isinstance(host.command("verify", NAME).exception, ImageUntrusted)
    host.keys = ()
    assert host.command("verify", NAME).exception is not None
    assert "not verified, since no keys are trusted" in host.command("verify", NAME, "--deep").stdout


def test_a_change_that_left_no_trace_is_found_by_a_deep_look(host: Host) -> None:
    """As a failing disk makes it: the record says that nothing has touched the file."""
    offer(host.web)
    host.pull()
    path = _in_cache(host, f"{NAME}.kernel")
    path.write_bytes(b"lernel" * 1000)
    path.chmod(0o444)
    record = host.store.path(NEW, NAME) / "verified.json"
    found = json.loads(record.read_bytes())
    status = path.stat()
    found["files"][path.name]["stamp"].update({"mtime-ns": status.st_mtime_ns, "ctime-ns": status.st_ctime_ns})
    record.chmod(0o644)
    record.write_text(json.dumps(found))
    assert host.command("verify", NAME).exit_code == 0
    assert isinstance(host.command("verify", NAME, "--deep").exception, ImageCorrupt)


def test_inspect_tells_of_an_image_and_of_a_file(host: Host, tmp_path: Path) -> None:
    built = SYSTEM.today() - timedelta(days=12)
    packages = {"bash": "5.2", "git": "2.43"}
    manifest = offer(host.web, runner_date=built, kernel_version="6.8.0-60", packages=packages)
    host.pull()
    document = json.loads(host.command("inspect", NAME, "--json").stdout)
    assert (document["commit"], document["arch"], document["kernel-version"]) == (NEW, "x86_64", "6.8.0-60")
    assert document["runner"] == {"version": "2.337.0", "date": built.isoformat(), "age-days": 12, "days-left": 18}
    assert document["signature"] == {"standing": "trusted", "key": OURS.public.id, "serial": 20, "refusal": None}
    assert document["packages"] == {"bash": "5.2", "git": "2.43"}
    text = host.command("inspect", NAME).stdout
    assert [line.split()[0] for line in text.splitlines()] == [
        *("image", "commit", "arch", "engines", "size", "kernel", "packages", "agent", "runner", "signature")
    ]
    assert "2.337.0, 12 days old" in text
    assert host.command("inspect", NAME, "--packages").stdout == f"{text}  bash 5.2\n  git 2.43\n"
    file = tmp_path / f"{NAME}.json"
    file.write_bytes(manifest.to_json())
    assert "refused: The image ubuntu is not signed" in host.command("inspect", str(file)).stdout
    file.with_name(f"{NAME}.json.sig").write_bytes(STRANGER.sign(3, manifest.to_json()).to_json())
    told = host.command("inspect", str(file)).stdout
    assert f"by key {STRANGER.public.id}, serial 3, refused" in told
    host.keys = ()
    assert "not verified: no keys are trusted" in host.command("inspect", str(file)).stdout


@pytest.mark.parametrize("words", ["debian", f"{NAME}@0", f"{NAME}@", "-x/y", "no/such.json", "no such"])
def test_what_is_not_there_cannot_be_looked_at(host: Host, words: str) -> None:
    offer(host.web)
    host.pull()
    done = CliRunner().invoke(cli, ["images", "inspect", "--images-cache-dir", str(host.cache), "--", words])
    assert isinstance(done.exception, GhvmError)
    assert done.exception.exit_code == ExitCode.USAGE


# ---- runs ----


@pytest.fixture
def lab(tmp_path: Path, simulator: Simulator, web: Site) -> Iterator[Lab]:
    (tmp_path / "tmp").mkdir()
    key = tmp_path / "key.pem"
    key.touch(mode=0o600)
    key.write_text(simulator.private_key_pem, encoding="utf-8")
    lab = Lab(tmp_path, f"t{secrets.token_hex(4)}", simulator, web.url, tmp_path / "cache")
    yield lab
    left = lab.leftovers()
    lab.end_machines()
    assert left == []


TRUSTING = ("--images-trusted-keys", str(OURS.public))


def test_a_run_refuses_what_nobody_vouches_for_and_goes_on_with_what_it_has(lab: Lab, web: Site) -> None:
    offer(web, OLD_FILES, commit=COMMIT, key=STRANGER)
    with lab.run(*TRUSTING, image=NAME) as run:
        assert run.wait_exit() == ExitCode.INFRASTRUCTURE
    assert "a key that is not trusted" in run.lines[-1].message
    assert "launched" not in run.steps
    for commit, key in ((COMMIT, OURS), (NEW, STRANGER)):
        offer(web, OLD_FILES if commit == COMMIT else FILES, commit=commit, key=key)
        with lab.run(*TRUSTING, image=NAME) as run:
            facts = run.wait("image").facts
            assert (facts["commit"], facts["key"], facts["serial"]) == (COMMIT, OURS.public.id, 20)
            run.send(signal.SIGINT)
            run.wait_exit()
    assert any("going on with the newest image in the cache" in line.message for line in run.lines)


def test_a_run_without_keys_says_whom_it_believes_once(lab: Lab, web: Site) -> None:
    offer(web, key=None)
    told = []
    for _ in range(2):
        with lab.run(image=NAME) as run:
            run.wait("image")
            run.send(signal.SIGINT)
            run.wait_exit()
        told.append([line.message for line in run.lines if "images-trusted-keys" in line.message])
    assert [len(lines) for lines in told] == [1, 0]


@dataclass(frozen=True)
class Age:
    """Days of the runner in the image, whether GitHub has a newer one, and what that comes to."""

    days: int
    outdated: bool
    left: int | None
    warned: bool


@pytest.mark.parametrize("age", [Age(3, True, 27, False), Age(25, True, 5, True), Age(90, False, None, False)], ids=str)
def test_a_run_tells_how_long_its_runner_is_good_for(lab: Lab, web: Site, images: Path, age: Age) -> None:
    ours = "1.0.0" if age.outdated else lab.sim.state.runner_version
    changes = {"runner_date": SYSTEM.today() - timedelta(days=age.days), "runner_version": ours}
    manifest = guests.offer(web, images).model_copy(update=changes)
    web.files[f"/images/{COMMIT}/{manifest.name}.json"] = manifest.to_json()
    with lab.run() as run:
        run.wait("launched")
        (listed,) = json.loads(lab.ghvm("ps", "--json").stdout)["runs"]
        table = lab.ghvm("ps").stdout
        run.send(signal.SIGINT)
        run.wait_exit()
    assert listed["runner-days-left"] == age.left
    assert ("(runner: " in table) == (age.left is not None)
    assert any(f"{age.days} days old" in line.message for line in run.lines) == age.warned


def test_a_run_with_an_outdated_runner_is_permanent_unless_that_is_wanted(lab: Lab, web: Site) -> None:
    offer(web, key=None, runner_date=SYSTEM.today() - timedelta(days=30), runner_version="1.0.0")
    with lab.run(image=NAME) as run:
        assert run.wait_exit() == ExitCode.PERMANENT
    assert "too old" in run.lines[-1].message
    assert "Build the image anew" in str(run.lines[-1].facts["resolution"])
    assert web.downloads() == []
    assert json.loads(lab.ghvm("why", "--json").stdout)["run"]["reason"] == "runner outdated"
    with lab.run("--runner-max-age-days", "0", image=NAME) as run:
        run.wait("image")
        run.send(signal.SIGINT)
        run.wait_exit()
    assert any("30 days old" in line.message for line in run.lines)
