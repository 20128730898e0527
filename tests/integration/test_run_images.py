"""`ghvm images pull` and `ghvm run` with images that cannot be had: one error, its exit code, and nothing is left.

No machine is started here: each run ends, or is ended, before that.
"""

import contextlib
import secrets
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ghrunner_vm import cli, config
from ghrunner_vm.app import CachedImages
from ghrunner_vm.clock import Clock
from ghrunner_vm.errors import ExitCode
from ghrunner_vm.images.pull import pull
from ghrunner_vm.images.remote import ImageServer
from ghrunner_vm.images.store import ImageStore
from ghrunner_vm.simulator.server import Simulator
from tests.harness import GhvmRun
from tests.integration.images_site import COMMIT, Site, bundle, compressed, disk, sha256, site
from tests.integration.mounts import as_root, read_only, small_disk
from tests.lab import Lab

NEW = "f" * 40
NAME = "ubuntu"
CUT = 400_000
IMAGE = {f"{NAME}.qcow2": disk(), f"{NAME}.kernel": b"kernel" * 1000}
LINK = f"/images/{COMMIT}/{NAME}.qcow2.zst"


@pytest.fixture
def web() -> Iterator[Site]:
    with site() as mine:
        mine.offer_bundle(bundle(NAME, IMAGE), IMAGE)
        yield mine


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def lab(tmp_path: Path, simulator: Simulator, web: Site, cache: Path) -> Iterator[Lab]:
    """As everywhere, but with the image server that misbehaves."""
    (tmp_path / "tmp").mkdir()
    key = tmp_path / "key.pem"
    key.touch(mode=0o600)
    key.write_text(simulator.private_key_pem, encoding="utf-8")
    lab = Lab(tmp_path, f"t{secrets.token_hex(4)}", simulator, web.url, cache)
    yield lab
    left = lab.leftovers()
    lab.end_machines()
    assert left == []


def put(cache: Path, web: Site) -> None:
    """Fill the cache with what the server offers."""
    with ImageServer(web.url) as server:
        pull(ImageStore(cache), server, NAME)


# ---- the faults ----


def _missing(web: Site, _cache: Path) -> None:
    web.files = {"/latest": COMMIT.encode()}


def _missing_artifact(web: Site, _cache: Path) -> None:
    del web.files[LINK]


def _other_hash(web: Site, _cache: Path) -> None:
    web.files[LINK] = compressed(disk(2))


def _truncated(web: Site, _cache: Path) -> None:
    web.files[LINK] = compressed(disk())[: 1 << 20]


def _no_zstd(web: Site, _cache: Path) -> None:
    web.files[LINK] = disk()


def _redirected_in_circles(web: Site, _cache: Path) -> None:
    web.redirects["/latest"] = "/latest"


def _garbage(web: Site, _cache: Path) -> None:
    web.files["/latest"] = b"<html>Welcome</html>"


def _linked_cache(_web: Site, cache: Path) -> None:
    cache.with_name("elsewhere").mkdir()
    cache.symlink_to("elsewhere")


def _open_cache(_web: Site, cache: Path) -> None:
    cache.mkdir()
    cache.chmod(0o777)


@dataclass(frozen=True)
class Fault:
    """How to bring it about, the exit code, and words of the brief, the details and the resolution."""

    cause: Callable[[Site, Path], None]
    exit_code: ExitCode
    words: tuple[str, str, str]

    def __str__(self) -> str:
        return self.cause.__name__.strip("_")


FAULTS = [
    Fault(_missing, ExitCode.INFRASTRUCTURE, ("does not have this image", f"{NAME}.qcow2.sha256", "image's name")),
    Fault(_missing_artifact, ExitCode.INFRASTRUCTURE, ("does not have this image", LINK, "has published it")),
    Fault(_other_hash, ExitCode.INFRASTRUCTURE, ("is corrupt", sha256(disk(2)), "Pull it again")),
    Fault(_truncated, ExitCode.INFRASTRUCTURE, ("is corrupt", f"expected {sha256(disk())}", "Pull it again")),
    Fault(_no_zstd, ExitCode.INFRASTRUCTURE, ("cannot be decompressed", f"{NAME}.qcow2", "what the image server")),
    Fault(_redirected_in_circles, ExitCode.INFRASTRUCTURE, ("cannot be reached", "redirects", "Check the address")),
    Fault(_garbage, ExitCode.INFRASTRUCTURE, ("makes no sense", "GET /latest", "this is an image server")),
    Fault(_linked_cache, ExitCode.PERMANENT, ("not safe to use", "a symbolic link", "--images-cache-dir")),
    Fault(_open_cache, ExitCode.PERMANENT, ("not safe to use", "0777", "chmod go-w")),
]


def pull_command(web: Site, cache: Path) -> int:
    places = ["--images-cache-dir", str(cache), "--state-dir", str(cache.with_name("state"))]
    with pytest.raises(SystemExit) as ended:
        cli.main(["images", "pull", NAME, "--images-server", web.url, *places])
    return int(ended.value.code or 0)


def staged(cache: Path) -> list[Path]:
    """What a pull has left of an image, complete or not."""
    return [path for path in cache.rglob("*") if path.is_file() and path.name != ".lock"]


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_the_pull_command_tells_what_happened_and_what_to_do(
    web: Site, cache: Path, fault: Fault, capsys: pytest.CaptureFixture[str]
) -> None:
    fault.cause(web, cache)
    assert pull_command(web, cache) == fault.exit_code
    told = " ".join(capsys.readouterr().err.split())
    for words in fault.words:
        assert words in told
    assert "Traceback" not in told


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_run_ends_before_any_machine(lab: Lab, web: Site, fault: Fault) -> None:
    fault.cause(web, lab.cache)
    with lab.run(image=NAME) as run:
        assert run.wait_exit() == fault.exit_code
    facts = run.lines[-1].facts
    told = (str(facts["message"]), str(facts["details"]), str(facts["resolution"]))
    for words, part in zip(fault.words, told, strict=True):
        assert words in part
    assert "launched" not in run.steps
    assert [path for path in staged(lab.cache) if path.name.endswith(".qcow2")] == []


# ---- disks ----


def stop(run: GhvmRun) -> None:
    run.send(signal.SIGINT)
    run.wait_exit()


@as_root
def test_a_full_disk_is_infrastructure(lab: Lab, tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", 1 << 20) as small:
        with lab.run("--images-cache-dir", str(small), image=NAME) as run:
            assert run.wait_exit() == ExitCode.INFRASTRUCTURE
        assert staged(small) == []
    assert str(small) in str(run.lines[-1].facts["details"])


@as_root
def test_a_read_only_cache_without_the_image_is_permanent(lab: Lab, cache: Path) -> None:
    cache.mkdir()
    with read_only(cache), lab.run(image=NAME) as run:
        assert run.wait_exit() == ExitCode.PERMANENT
    assert "cannot be written" in run.lines[-1].message


@as_root
def test_a_run_uses_the_image_of_a_read_only_cache(lab: Lab, web: Site, cache: Path) -> None:
    put(cache, web)
    with read_only(cache), lab.run(image=NAME) as run:
        assert run.wait("image").facts["commit"] == COMMIT
        stop(run)


@as_root
def test_a_newer_image_that_cannot_be_stored_is_a_warning(lab: Lab, web: Site, cache: Path) -> None:
    put(cache, web)
    changed = {**IMAGE, f"{NAME}.qcow2": disk(2)}
    web.offer_bundle(bundle(NAME, changed), changed, commit=NEW)
    with read_only(cache):
        with lab.run(image=NAME) as run:
            assert run.wait("image").facts["commit"] == COMMIT
            stop(run)
        assert any("cannot be written: going on with" in line.message for line in run.lines)
        with lab.run("--require-latest", image=NAME) as run:
            assert run.wait_exit() == ExitCode.PERMANENT


# ---- a server that dies ----


def test_a_server_that_dies_means_the_cached_image_and_the_next_run_goes_on(lab: Lab, web: Site, cache: Path) -> None:
    put(cache, web)
    changed = {**IMAGE, f"{NAME}.qcow2": disk(2)}
    web.offer_bundle(bundle(NAME, changed), changed, commit=NEW)
    web.cuts, web.cut_always = [CUT], 0
    warnings: list[str] = []
    no_pause = Clock(sleep=lambda _seconds: None)
    with ImageServer(web.url, clock=no_pause) as server:
        cached = CachedImages(ImageStore(cache), server, config.load({}, environ={}, files=[]), no_bar, warnings.append)
        assert cached.fetch(NAME, lambda: False, lambda _manifest: None) == COMMIT
        cached.tidy()
    assert "going on with the newest image in the cache" in warnings[0]
    web.cut_always = None
    web.requests.clear()
    with lab.run(image=NAME) as run:
        assert run.wait("image").facts["commit"] == NEW
        stop(run)
    assert web.downloads()[0] == (f"/images/{NEW}/{NAME}.qcow2.zst", f"bytes={CUT}-")


@contextlib.contextmanager
def no_bar(_label: str, _total: int | None) -> Iterator[Callable[[int], None]]:
    yield lambda _bytes: None
