"""The README's first command, for real."""

import os
from pathlib import Path

from ghrunner_vm import process
from ghrunner_vm.images.manifest import Manifest

ROOT = Path(__file__).parents[2]


def test_make_demo_runs_the_persons_own_job() -> None:
    job = """echo "the answer is $((6 * 7)), it's in $HOME" """
    output = process.run(["sh", "-c", 'make demo JOB="$0" 2>&1', job], timeout=280, cwd=ROOT)
    assert "the answer is 42, it's in /home/runner" in output
    assert "The job succeeded" in output
    assert "Nothing is left" in output
    for step in ("pulled", "booted", "registered", "job started", "job finished", "gone"):
        assert step in output


def test_demo_tells_that_a_job_failed() -> None:
    cache = os.environ.get("XDG_CACHE_HOME", "")
    env = {"XDG_CACHE_HOME": cache} if cache else {}
    ghvm = ROOT / ".venv/bin/ghvm"
    output = process.run(["sh", "-c", f"{ghvm} demo --job 'echo no; exit 3' 2>&1"], timeout=280, cwd=ROOT, env=env)
    assert "The job failed" in output


def test_the_tiny_image_can_be_had_for_an_image_server(tmp_path: Path) -> None:
    ghvm = ROOT / ".venv/bin/ghvm"
    output = process.run([str(ghvm), "sim", "image", str(tmp_path / "build")], timeout=280)
    assert f"ghvm serve-images {tmp_path}" in output
    manifest = Manifest.parse((tmp_path / "build/ghvm-demo.json").read_bytes())
    assert manifest.agent == 1
    assert {path.name for path in (tmp_path / "build").iterdir()} == {*manifest.artifacts, "ghvm-demo.json"}
