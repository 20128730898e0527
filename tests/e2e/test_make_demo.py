"""The README's first command, for real."""

import os
from pathlib import Path

from ghrunner_vm import process

ROOT = Path(__file__).parents[2]


def test_make_demo_runs_the_persons_own_job() -> None:
    job = "echo the answer is $((6 * 7))"
    output = process.run(["sh", "-c", f"make demo JOB='{job}' 2>&1"], timeout=280, cwd=ROOT)
    assert "the answer is 42" in output.replace("$$", "$")
    assert "the job ended with success" in output
    assert "Nothing is left" in output
    for step in ("pulled", "booted", "registered", "job started", "job finished", "gone"):
        assert step in output


def test_demo_tells_that_a_job_failed() -> None:
    cache = os.environ.get("XDG_CACHE_HOME", "")
    env = {"XDG_CACHE_HOME": cache} if cache else {}
    ghvm = ROOT / ".venv/bin/ghvm"
    output = process.run(["sh", "-c", f"{ghvm} demo --job 'echo no; exit 3' 2>&1"], timeout=280, cwd=ROOT, env=env)
    assert "the job ended with failure" in output
