"""A new image drains an idle run; one that cannot be used, or is no other, does not."""

import signal
from pathlib import Path

from ghrunner_vm.errors import ExitCode
from tests import guests
from tests.integration.images_site import COMMIT, site
from tests.lab import Lab

_NEW = COMMIT[::-1]
_FLAGS = ("--image-poll-seconds", "1")


def test_an_idle_run_ends_for_a_new_image_which_is_in_the_cache_then(lab: Lab, images: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cold"
    with site() as server:
        guests.offer(server, images)
        with lab.run("--images-server", server.url, "--images-cache-dir", str(cache), *_FLAGS) as run:
            run.wait("idle")
            guests.offer(server, images, name=guests.TINY, of=guests.ROOT, commit=_NEW)
            assert run.wait("new-image").facts["commit"] == _NEW
            assert run.wait_exit() == ExitCode.OK
    assert run.outcome == "drained"
    assert (cache / _NEW / guests.TINY / "manifest.json").exists()


def test_a_run_with_a_job_finishes_it_first(lab: Lab, images: Path, tmp_path: Path) -> None:
    with site() as server, lab.gate() as gate:
        guests.offer(server, images)
        job = lab.job(gate.command)
        with lab.run("--images-server", server.url, "--images-cache-dir", str(tmp_path / "cold"), *_FLAGS) as run:
            gate.wait_reached()
            guests.offer(server, images, name=guests.TINY, of=guests.ROOT, commit=_NEW)
            assert run.wait("drain").facts["reason"] == "a new image is there"
            gate.open()
            assert run.wait_exit() == ExitCode.OK
    assert run.outcome == "job-done"
    assert lab.finished(job).conclusion == "success"


def test_a_bad_publish_is_told_and_a_new_commit_of_the_same_image_is_not(
    lab: Lab, images: Path, tmp_path: Path
) -> None:
    with site() as server:
        guests.offer(server, images)
        with lab.run("--images-server", server.url, "--images-cache-dir", str(tmp_path / "cold"), *_FLAGS) as run:
            run.wait("idle")
            guests.offer(server, images, commit="same")
            server.files["/latest"] = b"same"
            while server.latest_asked.acquire(blocking=False):
                pass  # what was asked before
            for _ in range(2):  # the second time, the first answer has been thought over
                assert server.latest_asked.acquire(timeout=60)
            assert "new-image" not in run.steps
            guests.offer(server, images, name=guests.TINY, of=guests.ROOT, commit=_NEW, damaged=True)
            assert "corrupt" in run.wait("trouble").message
            run.send(signal.SIGTERM)
            assert run.wait_exit() == ExitCode.OK
    assert "new-image" not in run.steps
    assert run.outcome == "drained"
