"""What pip gets for the emulated host, which has no network."""

import hashlib
import os
import re
import sys
import tomllib
from pathlib import Path

from ghrunner_vm import process
from tests.kept import once

_ROOT = Path(__file__).parents[2]
_RUNS_TESTS = re.compile(r"pytest(-timeout)?\b(?!-)")
_SECONDS = 300.0


def wheelhouse(cache: Path) -> Path:
    """A directory with the wheels that ghvm and its tests need at run time, made once for each list of needs.

    Safe to call from several processes at once: the second waits for the first.
    """
    needs, python = _needs(), _python()
    fingerprint = hashlib.sha256(repr((needs, python)).encode()).hexdigest()[:16]

    def make(work: Path) -> Path:
        run("download", "--only-binary=:all:", "--python-version", python, "--dest", f"{work}/wheels", *needs)
        return work / "wheels"

    return once(cache, "wheels", fingerprint, make)


def build_wheel(into: Path) -> None:
    """Put the wheel of ghvm itself there, built from this tree."""
    run("wheel", "--no-deps", "--wheel-dir", str(into), str(_ROOT))


def _needs() -> list[str]:
    """What pyproject.toml asks for, but of the tools for development only what runs tests."""
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    tools = [need for need in project["optional-dependencies"]["dev"] if _RUNS_TESTS.match(need)]
    return [*project["dependencies"], *tools]


def _python() -> str:
    """The version of the distribution's Python, such as 3.11."""
    told = process.run(["apt-cache", "show", "--no-all-versions", "python3"], timeout=_SECONDS)
    version = re.search(r"^Version: (\d+\.\d+)", told, re.MULTILINE)
    assert version is not None, told
    return version[1]


def run(command: str, *words: str) -> None:
    """A command of pip's."""
    # A proxy and a mirror may be set by variables, which no program that ghvm starts has to see.
    own = {name: value for name, value in os.environ.items() if re.fullmatch(r"PIP_\w+|(?i:\w+_proxy)", name)}
    argv = [sys.executable, "-m", "pip", command, "--quiet", "--disable-pip-version-check", *words]
    process.run(argv, timeout=_SECONDS, env=own)
