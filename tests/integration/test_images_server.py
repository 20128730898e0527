"""The image server over real HTTP, alone and as a process."""

import os
import re
import select
import signal
import subprocess  # noqa: TID251 the test needs the process itself, with its pipes and signals
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import zstandard
from click.testing import CliRunner

from ghrunner_vm.clock import Clock
from ghrunner_vm.commands.images import images
from ghrunner_vm.errors import InfrastructureError, UsageError
from ghrunner_vm.images.errors import ImageServerUnreachable
from ghrunner_vm.images.pull import pull
from ghrunner_vm.images.remote import ImageServer
from ghrunner_vm.images.server import KEPT_COMMITS, ImageService, serve
from ghrunner_vm.images.store import ImageStore
from tests.integration.images_site import WAIT_SECONDS, bundle, disk, sha256

LATER = Clock(wall=lambda: Clock().wall() + 100)
"""All files are quiet as this clock sees them."""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "ubuntu.qcow2").write_bytes(disk())
    return tmp_path / "images"


@pytest.fixture
def service(directory: Path, tmp_path: Path) -> Iterator[ImageService]:
    with serve(directory, cache_dir=tmp_path / "served", clock=LATER) as running:
        running.wait_ready(WAIT_SECONDS)
        yield running


def get(url: str, **headers: str) -> requests.Response:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return requests.get(url, headers=given, timeout=WAIT_SECONDS)


def artifact(service: ImageService, file: str = "ubuntu.qcow2.zst") -> str:
    return f"{service.url}/images/{service.wait_ready(0).commit}/{file}"


def test_the_reference_clients_three_requests(service: ImageService) -> None:
    commit = get(f"{service.url}/latest").content
    assert re.fullmatch(rb"[0-9a-f]{40}", commit)
    base = f"{service.url}/images/{commit.decode()}/ubuntu.qcow2"
    assert zstandard.decompress(get(f"{base}.zst").content) == disk()
    assert get(f"{base}.sha256").content == sha256(disk()).encode() + b"\n"
    assert get(f"{service.url}/").status_code == 200


def test_what_is_not_there_is_not_found(service: ImageService) -> None:
    commit = service.wait_ready(0).commit
    for path in ("nothing", f"images/{commit}/debian.qcow2.zst", f"images/{'0' * 40}/ubuntu.qcow2.zst"):
        assert get(f"{service.url}/{path}").status_code == 404
    for path in ("..%2f..%2fetc%2fpasswd", "ubuntu.qcow2", "ubuntu.json"):
        assert get(f"{service.url}/images/{commit}/{path}").status_code == 404


def test_ranges_continue_a_download(service: ImageService) -> None:
    url = artifact(service)
    whole = get(url)
    etag = whole.headers["ETag"]
    part = get(url, Range="bytes=1000-", If_Range=etag)
    assert (part.status_code, part.content) == (206, whole.content[1000:])
    assert part.headers["Content-Range"] == f"bytes 1000-{len(whole.content) - 1}/{len(whole.content)}"
    assert get(url, Range="bytes=1000-", If_Range='"other"').content == whole.content
    assert get(url, Range=f"bytes={len(whole.content)}-").status_code == 416


def test_head_and_not_modified(service: ImageService) -> None:
    url = artifact(service)
    head = requests.head(url, timeout=WAIT_SECONDS)
    assert int(head.headers["Content-Length"]) == len(get(url).content)
    assert head.content == b""
    same = get(url, If_None_Match=f'"x", {head.headers["ETag"]}')
    assert (same.status_code, same.content) == (304, b"")
    assert get(url, If_None_Match='"x"').status_code == 200


def test_a_new_image_is_noticed_and_the_old_commit_still_answers(service: ImageService, directory: Path) -> None:
    old = artifact(service)
    (directory / "debian.qcow2").write_bytes(disk(2))
    service.refresh()
    assert get(artifact(service, "debian.qcow2.sha256")).status_code == 200
    assert artifact(service) != old
    assert get(old).status_code == 200


def test_the_oldest_of_many_commits_is_forgotten_with_its_copy(
    service: ImageService, directory: Path, tmp_path: Path
) -> None:
    seen = [artifact(service)]
    for seed in range(2, 5):
        (directory / "ubuntu.qcow2").write_bytes(disk(seed))
        service.refresh()
        seen.append(artifact(service))
    assert [get(url).status_code for url in seen] == [404, 200, 200, 200]
    assert len(list((tmp_path / "served").glob("*.zst"))) == KEPT_COMMITS


def test_ghvm_pulls_a_bundle_from_it(directory: Path, tmp_path: Path) -> None:
    artifacts = {"small.qcow2": disk(3), "small.kernel": b"kernel" * 1000}
    for file, content in artifacts.items():
        (directory / file).write_bytes(content)
    (directory / "small.json").write_bytes(bundle("small", artifacts).to_json())
    store = ImageStore(tmp_path / "cache")
    with serve(directory, cache_dir=tmp_path / "served", clock=LATER) as service, ImageServer(service.url) as server:
        service.wait_ready(WAIT_SECONDS)
        commit = pull(store, server, "small").commit
        assert pull(store, server, "ubuntu").commit == commit
    with store.lease(commit, "small") as image:
        assert {file: os.pread(held, 1 << 30, 0) for file, held in image.files.items()} == artifacts


def test_a_server_whose_images_are_not_ready_says_so(directory: Path, tmp_path: Path) -> None:
    image = directory / "ubuntu.qcow2"
    never_quiet = Clock(wall=lambda: image.stat().st_ctime + 1)
    with serve(directory, cache_dir=tmp_path / "served", clock=never_quiet) as service:
        with ImageServer(service.url) as server, pytest.raises(ImageServerUnreachable):
            server.latest()
        with pytest.raises(InfrastructureError, match="not ready"):
            service.wait_ready(0)


def test_an_address_in_use_and_a_missing_directory_are_usage_errors(directory: Path, tmp_path: Path) -> None:
    with serve(directory, cache_dir=tmp_path / "served") as service:
        port = int(service.url.rpartition(":")[2])
        with pytest.raises(UsageError), serve(directory, port=port, cache_dir=tmp_path / "served"):
            pass
    with pytest.raises(UsageError), serve(tmp_path / "nowhere", cache_dir=tmp_path / "served"):
        pass


def test_the_pull_command(service: ImageService, tmp_path: Path) -> None:
    places = ["--images-cache-dir", str(tmp_path / "cache"), "--state-dir", str(tmp_path / "state")]
    arguments = ["pull", "ubuntu", "--images-server", service.url, *places]
    first = CliRunner().invoke(images, arguments, catch_exceptions=False)
    assert "fetched, 3.0 MiB" in first.stdout
    again = CliRunner().invoke(images, [*arguments, "--json"], catch_exceptions=False)
    assert '"fetched": false' in again.stdout
    with pytest.raises(UsageError, match="not a name"):
        CliRunner().invoke(images, ["pull", "../x"], catch_exceptions=False)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_it_is_told_to_stop(directory: Path, tmp_path: Path, stop: signal.Signals) -> None:
    code = "from ghrunner_vm.commands.serve_images import serve_images; serve_images()"
    command = [sys.executable, "-c", code, str(directory), "--port=0", f"--cache-dir={tmp_path / 'served'}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0) as process:
        try:
            url = re.search(rb"--images-server (http://127\.0\.0\.1:\d+)\n", _output_until(process, b"--images-server"))
            assert url is not None
            assert get(f"{url[1].decode()}/").status_code == 200
            process.send_signal(stop)
            assert process.wait(WAIT_SECONDS) == 0
        finally:
            process.kill()


def _output_until(process: "subprocess.Popen[bytes]", wanted: bytes) -> bytes:
    assert process.stdout is not None
    output = b""
    while wanted not in output:
        assert select.select([process.stdout], [], [], WAIT_SECONDS)[0], output
        line = process.stdout.readline()
        assert line, output
        output += line
    return output
