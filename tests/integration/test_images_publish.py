"""Publishing to a directory behind a plain web server and to one that takes PUT; killed half way, and done again."""

import contextlib
import functools
import http.server
import json
import os
import signal
import subprocess  # noqa: TID251 a real ghvm is killed
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from ghrunner_vm.clock import Clock
from ghrunner_vm.errors import ExitCode, InfrastructureError, PermanentError
from ghrunner_vm.images.catalog import Snapshot
from ghrunner_vm.images.compress import CompressedCache
from ghrunner_vm.images.directory_target import DirectoryTarget
from ghrunner_vm.images.http_target import TRIES, HttpTarget
from ghrunner_vm.images.locking import nothing
from ghrunner_vm.images.publish import Published, publish, snapshot
from ghrunner_vm.images.pull import pull
from ghrunner_vm.images.remote import ImageServer
from ghrunner_vm.images.serials import Serials
from ghrunner_vm.images.server import serve
from ghrunner_vm.images.signing import SigningKey, checked, sign
from ghrunner_vm.images.store import ImageStore
from ghrunner_vm.images.trust import Trust
from tests.http_site import serving
from tests.integration.images_site import bundle, disk
from tests.integration.put_site import TOKEN, WAIT_SECONDS, PutSite, put_site

NAME = "ubuntu"
KEY = SigningKey.generate()
LATER = Clock(wall=lambda: Clock().wall() + 100)
KILLED_HALF_WAY = """
import os, signal, sys
from pathlib import Path
from ghrunner_vm.clock import Clock
from ghrunner_vm.images.compress import CompressedCache
from ghrunner_vm.images.directory_target import DirectoryTarget
from ghrunner_vm.images.publish import publish, snapshot

images, cache, root = map(Path, sys.argv[1:])
later = Clock(wall=lambda: Clock().wall() + 100)
found = snapshot(images, CompressedCache(cache, lambda: None), clock=later)

def progress(done, total):
    if done >= total // 2:
        os.kill(os.getpid(), signal.SIGKILL)

publish(found, DirectoryTarget(root), progress)
"""


class Builder:
    """Where images are built, signed and published from."""

    def __init__(self, root: Path) -> None:
        self.images, self.cache, self.home = root / "images", root / "compressed", root
        self.images.mkdir()

    def build(self, seed: int, *, serial: int) -> None:
        """The image, anew."""
        artifacts = {f"{NAME}.qcow2": disk(seed), f"{NAME}.kernel": b"kernel" * 1000}
        for file, content in artifacts.items():
            (self.images / file).write_bytes(content)
        (self.images / f"{NAME}.json").write_bytes(bundle(NAME, artifacts).to_json())
        sign(checked(self.images / f"{NAME}.json"), KEY, serial)

    def snapshot(self) -> Snapshot:
        return snapshot(self.images, CompressedCache(self.cache, nothing), clock=LATER)

    @contextlib.contextmanager
    def command(self, target: str, token: str | None = TOKEN, **more: str) -> Iterator["subprocess.Popen[str]"]:
        """`ghvm images publish`, running."""
        words = ["images", "publish", str(self.images), target, "--cache-dir", str(self.cache), "--json"]
        environ = {"PATH": os.environ["PATH"], "HOME": str(self.home), **more}
        if token is not None:
            environ["GHVM_PUBLISH_TOKEN"] = token
        argv = [sys.executable, "-m", "ghrunner_vm", *words]
        with subprocess.Popen(argv, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            try:
                yield process
            finally:
                process.kill()

    def run(self, target: str, token: str | None = TOKEN, **environ: str) -> tuple[int, str, str]:
        """The same, at its end: exit code, output and narration."""
        with self.command(target, token, **environ) as process:
            out, err = process.communicate(timeout=WAIT_SECONDS)
            return process.returncode, out, err


@pytest.fixture
def builder(tmp_path: Path) -> Builder:
    builder = Builder(tmp_path)
    builder.build(1, serial=1)
    return builder


@pytest.fixture
def web() -> Iterator[PutSite]:
    with put_site() as mine:
        yield mine


@contextlib.contextmanager
def static(directory: Path) -> Iterator[str]:
    """Python's own web server, which knows nothing of images."""
    with serving(functools.partial(_Quiet, directory=str(directory))) as url:
        yield url


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_arguments: object) -> None:
        pass


def pulled(url: str, home: Path) -> tuple[str, int | None, bytes]:
    """What a host that trusts the key boots: commit, serial and disk."""
    trust = Trust((KEY.public,), Serials(home / "trust"))
    store = ImageStore(home / "images", trust=trust)
    with ImageServer(url) as server:
        commit = pull(store, server, NAME).commit
    with store.lease(commit, NAME) as image:
        trust.remember(NAME, image.signature)
        serial = None if image.signature is None else image.signature.serial
        return commit, serial, os.pread(image.disk_fd, 1 << 30, 0)


def test_what_is_published_can_be_pulled_from_any_web_server(builder: Builder, tmp_path: Path) -> None:
    root = tmp_path / "www"
    code, out, err = builder.run(str(root))
    assert (code, json.loads(out)["images"]) == (0, [NAME])
    commit = json.loads(out)["commit"]
    assert "not signed" not in err
    with static(root) as url:
        assert pulled(url, tmp_path / "host") == (commit, 1, disk(1))
        builder.build(2, serial=2)
        code, out, _ = builder.run(str(root))
        assert code == 0
        assert pulled(url, tmp_path / "host") == (json.loads(out)["commit"], 2, disk(2))


def test_it_is_what_serve_images_offers_of_the_same_directory(builder: Builder, web: PutSite) -> None:
    with serve(builder.images, cache_dir=builder.cache, clock=LATER) as service:
        offered = service.wait_ready(WAIT_SECONDS)
    code, _, _ = builder.run(web.url)
    assert code == 0
    home = f"/images/{offered.commit}"
    assert web.files == {
        "/latest": offered.commit.encode(),
        **{f"{home}/{file}": text for file, text in offered.texts.items()},
        **{f"{home}/{file}": path.read_bytes() for file, path in offered.compressed.items()},
    }
    assert web.puts[-1] == "/latest"


def test_what_is_published_by_put_can_be_pulled_and_is_not_sent_twice(
    builder: Builder, web: PutSite, tmp_path: Path
) -> None:
    builder.run(web.url)
    assert pulled(web.url, tmp_path / "host")[1:] == (1, disk(1))
    web.puts.clear()
    assert builder.run(web.url)[0] == 0
    assert [path for path in web.puts if path.endswith(".zst")] == []
    web.puts.clear()
    web.heads = False
    assert builder.run(web.url)[0] == 0
    assert len([path for path in web.puts if path.endswith(".zst")]) == 2


@pytest.mark.parametrize("end", [f"{NAME}.qcow2.zst", f"{NAME}.json", "/latest"])
def test_a_publish_by_put_that_is_killed_half_way_is_never_seen(
    builder: Builder, web: PutSite, tmp_path: Path, end: str
) -> None:
    builder.run(web.url)
    before = web.files["/latest"].decode()
    builder.build(2, serial=2)
    web.hold = end
    with builder.command(web.url) as process:
        assert web.held.wait(WAIT_SECONDS)
        process.send_signal(signal.SIGKILL)
        assert process.wait(WAIT_SECONDS) == -signal.SIGKILL
    web.release.set()
    web.hold = None
    if end != "/latest":  # so short a body has been sent before anyone can be killed
        assert pulled(web.url, tmp_path / "host") == (before, 1, disk(1))
    code, out, _ = builder.run(web.url)
    assert code == 0
    assert pulled(web.url, tmp_path / "host") == (json.loads(out)["commit"], 2, disk(2))


def test_a_publish_into_a_directory_that_is_killed_half_way_is_never_seen(builder: Builder, tmp_path: Path) -> None:
    root = tmp_path / "www"
    first = publish(builder.snapshot(), DirectoryTarget(root))
    builder.build(2, serial=2)
    argv = [sys.executable, "-c", KILLED_HALF_WAY, str(builder.images), str(builder.cache), str(root)]
    assert subprocess.run(argv, timeout=WAIT_SECONDS, check=False).returncode == -signal.SIGKILL
    second = builder.snapshot().commit
    assert list((root / "images" / second).glob(".*.part")) != []
    with static(root) as url:
        assert pulled(url, tmp_path / "host") == (first.commit, 1, disk(1))
        assert builder.run(str(root))[0] == 0
        assert pulled(url, tmp_path / "host") == (second, 2, disk(2))
    assert list(root.rglob("*.part")) == []


# ---- a server that does not take it ----


def put(builder: Builder, web: PutSite, clock: Clock) -> Published:
    with HttpTarget(web.url, SecretStr(TOKEN), clock=clock) as target:
        return publish(builder.snapshot(), target)


def test_what_may_pass_is_tried_again(builder: Builder, web: PutSite) -> None:
    pauses: list[float] = []
    web.answers = [500, 429, 503]
    put(builder, web, Clock(sleep=pauses.append))
    assert pauses == [1.0, 2.0, 4.0]
    assert "/latest" in web.files
    web.files.clear()
    web.answers = [500] * TRIES
    with pytest.raises(InfrastructureError, match="did not take images/") as caught:
        put(builder, web, Clock(sleep=pauses.append))
    assert "status 500" in str(caught.value.details)
    assert web.files == {}


@pytest.mark.parametrize("status", [302, 400, 404, 405, 507])
def test_nothing_more_is_sent_after_a_refusal(builder: Builder, web: PutSite, status: int) -> None:
    web.answers = [status] * TRIES
    expected = InfrastructureError if status == 507 else PermanentError
    with pytest.raises(expected, match="did not take"):
        put(builder, web, Clock(sleep=lambda _seconds: None))
    assert len(set(web.puts)) == 1
    assert web.files == {}


@pytest.mark.parametrize("token", [None, "another"])
def test_without_the_right_token_it_is_permanent(builder: Builder, web: PutSite, token: str | None) -> None:
    code, _, err = builder.run(web.url, token)
    assert code == ExitCode.PERMANENT
    assert "GHVM_PUBLISH_TOKEN" in err
    assert web.files == {}


def test_a_server_that_is_away_is_infrastructure(builder: Builder) -> None:
    with (
        pytest.raises(InfrastructureError, match="did not take"),
        HttpTarget("http://127.0.0.1:1", clock=Clock(sleep=lambda _seconds: None)) as target,
    ):
        publish(builder.snapshot(), target)


def test_a_token_does_not_lose_to_netrc(builder: Builder, web: PutSite, tmp_path: Path) -> None:
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    netrc.chmod(0o600)
    assert builder.run(web.url)[0] == 0
    assert "/latest" in web.files


def test_an_image_that_is_not_signed_is_published_with_a_warning(builder: Builder, tmp_path: Path) -> None:
    (builder.images / f"{NAME}.json.sig").unlink()
    code, _, err = builder.run(str(tmp_path / "www"))
    assert code == 0
    assert "not signed: ubuntu; hosts with images-trusted-keys refuse them" in err


def test_a_signature_that_hosts_would_refuse_is_not_published_where_keys_are_known(
    builder: Builder, tmp_path: Path
) -> None:
    """The image was built anew, and the signature is still the one before."""
    root, trusting = tmp_path / "www", {"GHVM_IMAGES_TRUSTED_KEYS": str(KEY.public)}
    assert builder.run(str(root), **trusting)[0] == 0
    before = (root / "latest").read_text()
    signature = (builder.images / f"{NAME}.json.sig").read_bytes()
    builder.build(2, serial=2)
    (builder.images / f"{NAME}.json.sig").write_bytes(signature)
    code, _, err = builder.run(str(root), **trusting)
    assert (code, "The signature of the image ubuntu is wrong" in err) == (ExitCode.INFRASTRUCTURE, True)
    assert (root / "latest").read_text() == before


def test_the_progress_comes_to_its_end(builder: Builder, tmp_path: Path) -> None:
    heard: list[tuple[int, int | None]] = []
    found = builder.snapshot()
    for _ in range(2):
        publish(found, DirectoryTarget(tmp_path / "www"), lambda done, total: heard.append((done, total)))
        assert heard == sorted(heard)
        assert heard[-1][0] == heard[-1][1]
        heard.clear()
