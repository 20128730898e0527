"""SIGKILL at every step of `ghvm run`: whatever the step, `ghvm gc` then leaves nothing.

The steps are taken from a run that is left alone, so that a new one is killed at without being listed here.
"""

import contextlib
import itertools
import os
import secrets
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from ghrunner_vm.errors import ExitCode
from ghrunner_vm.images.pull import pull
from ghrunner_vm.images.remote import ImageServer
from ghrunner_vm.images.store import ImageStore
from ghrunner_vm.record import RECORD, encode_record, read_record
from tests import guests
from tests.harness import GhvmRun, wait_gone
from tests.lab import Lab
from tests.world import World

_AT_ONCE = 2
_LAUNCHERS = tuple(f"subprocess.Popen {name} #" for name in ("systemd-run", "/".join(Path(sys.executable).parts[-2:])))
"""What starts the cell of a machine; earlier on Python starts for other things, too."""
_CHANGES_GITHUB = ("POST", "DELETE")
_LONG_AGO = 3600.0


@dataclass(frozen=True)
class Story:
    """What a run that nobody disturbed did: each moment at which it changed something, and the steps it told of."""

    moments: list[str]
    steps: list[str]

    @property
    def before_launch(self) -> list[str]:
        launch = max(index for index, moment in enumerate(self.moments) if moment.startswith(_LAUNCHERS))
        return self.moments[: launch + 1]

    @property
    def after_launch(self) -> list[str]:
        """Of the rest the first of each kind, and what comes right after a request that changes something at GitHub."""
        rest = self.moments[len(self.before_launch) :]
        answered = [after for before, after in itertools.pairwise(rest) if before.startswith(_CHANGES_GITHUB)]
        kinds: dict[str, str] = {}
        for moment in rest:
            kinds.setdefault(moment.rpartition(" #")[0], moment)
        return list(dict.fromkeys([*kinds.values(), *answered]))


class Mortals:
    """Runs with surroundings of their own, which leave nothing of one to the gc of another.

    They share as many user ids as there are runs at once: one that a dead run kept would be missed.
    """

    def __init__(self, lab: Lab, here: World) -> None:
        self._lab = lab
        self.here = here
        # A host that routes anyway: else what a run has to do there depends on whether others are there.
        here.in_host(lambda: Path("/proc/sys/net/ipv4/ip_forward").write_text("1", encoding="ascii"))
        base = str(1_000_000_000 + secrets.randbelow(500_000_000))
        self._users = {"GHVM_VM_UID_BASE": base, "GHVM_VM_UID_COUNT": str(_AT_ONCE)}

    def lab(self) -> Lab:
        name = secrets.token_hex(4)
        directory = self._lab.directory / f"of-{name}"
        (directory / "tmp").mkdir(parents=True)
        shutil.copy(self._lab.directory / "key.pem", directory)
        return replace(self._lab, directory=directory, label=f"t{name}")

    def run(self, lab: Lab, moment: str = "", *, cold: bool = False) -> contextlib.AbstractContextManager[GhvmRun]:
        """A `ghvm run` that dies at a moment, if one is given; `cold`: its cache is its own, and empty."""
        program = (*self.here.on_host, sys.executable, "-m", "tests.mortal", str(lab.directory / "journal"), moment)
        flags = ("--images-cache-dir", str(_cold(lab))) if cold else ()
        return lab.run(*flags, program=program, env=self._users)

    def story(self, *, cold: bool = False) -> Story:
        """One run with a job, from its beginning to its end."""
        lab = self.lab()
        lab.job("true")
        with self.run(lab, cold=cold) as run:
            assert run.wait_exit() == ExitCode.OK
        assert lab.leftovers() == []
        moments = (lab.directory / "journal").read_text(encoding="utf-8").splitlines()
        return Story(moments, [step for step in dict.fromkeys(run.steps) if step is not None])


def _cold(lab: Lab) -> Path:
    return lab.directory / "cold"


def _each(do: Callable[[str], None], cases: Sequence[str]) -> None:
    """Do it for all cases, several at once, and tell of all that fail."""

    def attempt(case: str) -> str:
        try:
            do(case)
        except AssertionError as error:
            return f"killed at {case}: {error}"
        return ""

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        assert [failure for failure in pool.map(attempt, cases) if failure] == []


def _collect(lab: Lab) -> None:
    """`ghvm gc` removes everything: at once, or once GitHub has let go and a lost answer can no longer come."""
    code, fates = lab.gc()
    if "pending" in fates.values():
        assert (code, set(fates.values())) == (ExitCode.INFRASTRUCTURE, {"pending"})
        assert [line for line in lab.leftovers() if not line.startswith(("run", "registration"))] == []
        _let_time_pass(lab)
        lab.let_go_and_collect()
    else:
        assert (code, set(fates.values()) - {"removed"}) == (ExitCode.OK, set())
    assert lab.leftovers() == []
    assert [path for path in lab.state.rglob("*") if path.name.startswith(".")] == []


def _let_time_pass(lab: Lab) -> None:
    for path in lab.runs:
        record = read_record(path)
        assert record is not None
        assert record.runner is not None
        runner = record.runner.model_copy(update={"asked": record.runner.asked - _LONG_AGO})
        (path / RECORD).write_bytes(encode_record(record.model_copy(update={"runner": runner})))


def _wait_machines_gone(lab: Lab) -> None:
    for pid in lab.machines:
        with contextlib.suppress(ProcessLookupError):
            pidfd = os.pidfd_open(pid)
            try:
                wait_gone(pidfd)
            finally:
                os.close(pidfd)


def _pull_again(lab: Lab, here: World) -> None:
    """The next pull uses or clears what a dead one left."""
    cache = _cold(lab)
    store = ImageStore(cache)

    def pulled() -> str:
        with ImageServer(lab.images_url) as server:
            return pull(store, server, guests.TINY).commit

    assert store.has(here.in_host(pulled), guests.TINY)
    staged = [path for path in (cache / ".staging").rglob("*") if path.is_file() and path.name != ".lock"]
    assert staged == []


@pytest.mark.timeout(300)
def test_a_run_that_is_killed_before_its_machine_starts(lab: Lab, here: World) -> None:
    mortals = Mortals(lab, here)

    def kill(moment: str) -> None:
        mine = mortals.lab()
        with mortals.run(mine, moment, cold=True) as run:
            assert run.wait_exit() == -signal.SIGKILL, run.transcript()
        _collect(mine)
        _pull_again(mine, here)

    _each(kill, mortals.story(cold=True).before_launch)


@pytest.mark.timeout(300)
def test_a_run_that_is_killed_once_its_machine_has_started(lab: Lab, here: World) -> None:
    mortals = Mortals(lab, here)

    def kill(moment: str) -> None:
        mine = mortals.lab()
        mine.job("true")
        with mortals.run(mine, moment) as run:
            assert run.wait_exit() == -signal.SIGKILL, run.transcript()
        _wait_machines_gone(mine)
        _collect(mine)

    _each(kill, mortals.story().after_launch)
