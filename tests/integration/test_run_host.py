"""A run and what surrounds it: images, the cache, GitHub's refusals."""

from pathlib import Path

from ghrunner_vm.errors import ExitCode
from tests import guests
from tests.harness import Line
from tests.integration.images_site import site
from tests.lab import Lab

_NOBODY = "http://127.0.0.1:1"
"""An address where nothing listens: ports this low are never handed out."""


def _is_warning(line: Line) -> bool:
    return line.facts.get("level") == "warning" and "newest image in the cache" in line.message


def test_two_runs_at_once_share_one_pull(lab: Lab, images: Path, tmp_path: Path) -> None:
    jobs = [lab.job("true"), lab.job("true")]
    with site() as server:
        manifest = guests.offer(server, images)
        flags = ("--images-server", server.url, "--images-cache-dir", str(tmp_path / "cold"))
        with lab.run(*flags) as one, lab.run(*flags) as other:
            assert (one.wait_exit(), other.wait_exit()) == (ExitCode.OK, ExitCode.OK)
        assert len(server.downloads()) == len(manifest.artifacts)
    assert (one.outcome, other.outcome) == ("job-done", "job-done")
    assert [lab.finished(job).conclusion for job in jobs] == ["success", "success"]


def test_an_image_that_is_not_what_its_manifest_says_is_refused(lab: Lab, images: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cold"
    with site() as server:
        guests.offer(server, images, damaged=True)
        with lab.run("--images-server", server.url, "--images-cache-dir", str(cache)) as run:
            assert run.wait_exit() == ExitCode.INFRASTRUCTURE
    assert "corrupt" in run.lines[-1].message
    assert "launched" not in run.steps
    assert list(cache.rglob("*.qcow2")) == []


def test_a_server_that_is_down_means_the_cached_image_with_a_warning(lab: Lab) -> None:
    job = lab.job("true")
    with lab.run("--images-server", _NOBODY) as run:
        assert run.wait_exit() == ExitCode.OK
    assert any(_is_warning(line) for line in run.lines)
    assert lab.finished(job).conclusion == "success"


def test_require_latest_refuses_the_cached_image(lab: Lab) -> None:
    with lab.run("--images-server", _NOBODY, "--require-latest") as run:
        assert run.wait_exit() == ExitCode.INFRASTRUCTURE
    assert "launched" not in run.steps


def test_no_cache_leaves_no_file(lab: Lab, tmp_path: Path) -> None:
    cache = tmp_path / "unused"
    lab.job("true")
    with lab.run("--no-cache", "--images-cache-dir", str(cache)) as run:
        run.wait("launched")
        assert list(lab.state.rglob("ghvm-demo.qcow2")) != []
        assert run.wait_exit() == ExitCode.OK
    assert (list(lab.temporary.iterdir()), cache.exists()) == ([], False)


def test_an_app_that_github_does_not_know_is_refused_before_any_machine(lab: Lab) -> None:
    with lab.run("--github-client-id", "Iv23liNobody") as run:
        assert run.wait_exit() == ExitCode.PERMANENT
    assert "launched" not in run.steps
    assert "the App's key" in run.lines[-1].message
