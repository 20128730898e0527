"""What a session tells others, without a machine: its record, its troubles, and how it is stopped."""

import asyncio
import contextlib
import errno
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from ghrunner_vm import app, config, runs
from ghrunner_vm.errors import DiskFull
from ghrunner_vm.guest import messages as said
from ghrunner_vm.lifecycle import events as ev
from ghrunner_vm.lifecycle import session
from ghrunner_vm.lifecycle.control import Stop
from ghrunner_vm.lifecycle.plan import Means
from ghrunner_vm.lifecycle.session import _Session
from ghrunner_vm.lifecycle.state import Phase, State
from ghrunner_vm.record import read_record
from ghrunner_vm.spec import Spec
from ghrunner_vm.vm.jail import Identity
from tests.unit.test_driver import WrittenHands

SPEC = Spec.model_validate(
    {
        "label": "demo",
        "image": "ubuntu",
        "arch": "x86_64",
        "cpu-cores": 1,
        "ram": "1G",
        "root-disk": "1G",
        "timeout-seconds": 60,
    }
)


class Scene:
    """A session with its run directory; nothing was launched."""

    def __init__(self, directory: Path) -> None:
        flags = {"state_dir": directory, "allow_host_loopback": True}
        plan = app.plan(config.load(flags, environ={}, files=[]), SPEC)
        self.told: list[tuple[str, str]] = []
        # They are for the preparation, which is not tested here.
        means = Means(**dict.fromkeys(("github", "images", "accelerator", "engine", "connect", "collect")))  # type: ignore[arg-type]
        self.session = _Session(plan, means, self._tell, contextlib.AsyncExitStack())

    def _tell(self, step: str, words: str, **_: object) -> None:
        self.told.append((step, words))


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    scene = Scene(tmp_path)
    with runs.create(tmp_path / "runs", scene.session._record()) as run:
        scene.session._run = scene.session._teller.run = run
        yield scene


def test_a_record_that_cannot_be_written_is_trouble_only(scene: Scene) -> None:
    run = scene.session._teller.run
    assert run is not None
    run.path = run.path / "missing"
    before = State(phase=Phase.READY)
    scene.session._observe(before, ev.ListenerStarted(), replace(before, phase=Phase.IDLE))
    assert [step for step, _ in scene.told] == ["trouble", "idle"]
    assert "No such file" in scene.told[0][1]


@pytest.mark.parametrize(
    ("how", "times", "abandoned"), [("now", 1, False), ("now", 2, True), ("force", 1, True), ("drain", 2, False)]
)
def test_a_second_stop_now_leaves_github_to_gc(
    scene: Scene, how: Literal["drain", "now", "force"], times: int, abandoned: bool
) -> None:
    session = scene.session

    async def stop() -> None:
        session.driver.launched(WrittenHands(session.driver))
        for _ in range(times):
            await session._control(Stop(do="stop", how=how))
        await session.driver.run()

    asyncio.run(stop())
    assert session._abandoned.is_set() is abandoned


def test_what_writes_into_the_run_directory_is_waited_for_before_that_is_removed(scene: Scene) -> None:
    """A disk that appears after the directory was cleared would be left for ever."""
    going_on, told = threading.Event(), []

    @contextlib.contextmanager
    def disk() -> Iterator[None]:
        told.append("begun")
        assert going_on.wait(30)
        told.append("made")
        yield
        told.append("deleted")

    async def interrupted() -> None:
        making = asyncio.create_task(scene.session._made(disk()))
        await asyncio.sleep(0)  # let it begin
        making.cancel()
        done, _ = await asyncio.wait({making}, timeout=0)
        assert not done
        going_on.set()
        await asyncio.wait({making})
        assert making.cancelled()
        await scene.session._stack.aclose()

    asyncio.run(interrupted())
    assert told == ["begun", "made", "deleted"]


def test_only_the_first_ready_and_the_first_job_are_believed(scene: Scene) -> None:
    """Later ones may be from root in the job."""
    teller, run = scene.session._teller, scene.session._run
    assert run is not None
    for key in ("", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA later"):
        teller.heard(said.Ready.model_validate({"type": "ready", "agent": 1, "ssh-host-key": key}))
    for job in ("build", "other"):
        teller.heard(said.JobStarted(type="job-started", job=job))
    assert (run.record.ssh_host_key, run.record.job) == (None, "build")


def test_only_the_first_host_key_is_believed(scene: Scene) -> None:
    """A guest that makes one while it boots tells it after `ready`."""
    teller, run = scene.session._teller, scene.session._run
    assert run is not None
    first, later = (f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA{letter}" for letter in "12")
    teller.heard(said.Ready.model_validate({"type": "ready", "agent": 1}))
    for key in (first, later):
        teller.heard(said.HostKey(type="ssh-host-key", key=key))
    assert run.record.ssh_host_key == first


def test_a_full_disk_is_what_the_record_says_a_run_ended_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))

    def no_room(_: Identity) -> Literal["kvm"]:
        raise OSError(errno.ENOSPC, "No space left on device", "/somewhere")

    flags = {"state_dir": tmp_path, "allow_host_loopback": True}
    plan = app.plan(config.load(flags, environ={}, files=[]), SPEC)
    means = Means(github=None, images=None, accelerator=no_room, engine=None, connect=None, collect=None)  # type: ignore[arg-type]
    with pytest.raises(OSError, match="No space left"):
        asyncio.run(session.run(plan, means, lambda *_, **__: None))
    (kept,) = (tmp_path / "history").iterdir()
    record = read_record(kept)
    assert record is not None
    assert record.failure is not None
    assert (record.failure.kind, record.failure.brief) == (DiskFull.__name__, "the disk is full (/somewhere)")
