"""What dead runs left is removed; what lives, or is not ours, is not touched. With real processes and locks."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from subprocess import DEVNULL  # noqa: TID251 a constant: nothing is started with it

import pytest

from ghrunner_vm import process, runs
from ghrunner_vm.clock import Clock
from ghrunner_vm.errors import InfrastructureError, UsageError
from ghrunner_vm.files import lock
from ghrunner_vm.github.client import GitHub
from ghrunner_vm.lifecycle.gc import Collected, collect, end_process
from ghrunner_vm.runs import ProcessRecord, RunnerRecord, RunRecord
from ghrunner_vm.simulator.faults import Rule
from ghrunner_vm.simulator.server import Simulator
from tests.unit.github_on_loopback import SCOPE, github_on_loopback

ID = "demo-0001"
LONG_AGO = 1.0
DEAD = ProcessRecord.of(pid=2, started=(1 << 62))


class Host:
    """The directories of a host on which runs have died."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.runs = root / "runs"
        self.sockets = root / "sockets"
        self.sockets.mkdir()
        self.github: GitHub | None = None

    def leave(self, run_id: str = ID, **fields: object) -> Path:
        """A run whose supervisor was killed."""
        given = {"boot_id": process.boot_id(), "supervisor": DEAD, **fields}
        record = RunRecord.of(id=run_id, label="demo", image="ubuntu", since=1.0, created=1.0, **given)
        path = self.runs / run_id
        path.mkdir(parents=True)
        (path / runs.RECORD).write_bytes(runs.encode(record))
        (path / runs.LOCK).touch(0o600)
        (path / "overlay.qcow2").write_bytes(b"disk")
        (self.sockets / f"{run_id}.sock").touch()
        return path

    def collect(self, clock: Clock = Clock()) -> list[Collected]:  # noqa: B008 it is frozen
        return list(collect(self.runs, self.sockets, lambda _: self.github, clock))


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@contextlib.contextmanager
def sleeping(program: str = "sleep", inherit: tuple[int, ...] = ()) -> Iterator[process.Child]:
    with process.start([program, "1000"], inherit=inherit, stderr=DEVNULL) as child:
        yield child


@pytest.fixture
def vmm(tmp_path: Path) -> Iterator[process.Child]:
    """A process that the kernel knows by a VMM's name."""
    program = tmp_path / "qemu-system-x86_64"
    shutil.copy(str(shutil.which("sleep")), program)
    with sleeping(str(program)) as child:
        yield child


def named(child: process.Child, started: int = 0) -> ProcessRecord:
    return ProcessRecord.of(pid=child.pid, started=child.started + started)


# ---- what is left is removed ----


def test_nothing_is_left_of_a_dead_run(host: Host) -> None:
    path = host.leave()
    assert host.collect() == [Collected(ID, "removed")]
    assert not path.exists()
    assert list(host.sockets.iterdir()) == []
    assert host.collect() == []


@pytest.mark.parametrize("content", [b"", b"{}", b"\0\xff"])
def test_a_run_with_an_unreadable_record_is_removed(host: Host, content: bytes) -> None:
    (host.leave() / runs.RECORD).write_bytes(content)
    assert host.collect() == [Collected(ID, "removed")]


def test_a_host_without_runs(host: Host) -> None:
    assert host.collect() == []


def test_the_vmm_of_a_dead_supervisor_is_ended(host: Host, vmm: process.Child) -> None:
    host.leave(vmm=named(vmm))
    assert host.collect() == [Collected(ID, "removed")]
    assert vmm.poll() == -9


# ---- what lives is not touched ----


def test_a_record_does_not_make_gc_end_another_program(host: Host) -> None:
    with sleeping() as bystander:
        host.leave(vmm=named(bystander))
        assert host.collect() == [Collected(ID, "removed")]
        assert bystander.poll() is None


def test_a_process_id_that_was_given_to_another_is_not_ended(host: Host, vmm: process.Child) -> None:
    host.leave(vmm=named(vmm, started=-1))
    host.collect()
    assert vmm.poll() is None


def test_a_record_from_before_the_last_boot_names_nobody(host: Host, vmm: process.Child) -> None:
    host.leave(vmm=named(vmm), boot_id="another-boot")
    assert host.collect() == [Collected(ID, "removed")]
    assert vmm.poll() is None


def test_the_vmm_of_a_living_supervisor_is_not_ended(host: Host, vmm: process.Child) -> None:
    with sleeping() as supervisor:
        host.leave(vmm=named(vmm), supervisor=named(supervisor))
        host.collect()
    assert vmm.poll() is None


def test_a_process_that_has_ended_is_no_error(vmm: process.Child) -> None:
    record = named(vmm)
    vmm.kill()
    assert vmm.join(30) == -9
    end_process(record)


def test_a_run_whose_lock_is_held_is_left_alone_in_silence(host: Host) -> None:
    path = host.leave()
    with contextlib.ExitStack() as stack:
        with lock(path / runs.LOCK) as descriptor:
            holder = stack.enter_context(sleeping(inherit=(descriptor,)))
        assert host.collect() == []
        assert (path / "overlay.qcow2").exists()
        holder.kill()
        holder.join(30)
        assert host.collect() == [Collected(ID, "removed")]


def test_a_newborn_is_left_alone_until_it_is_old(host: Host) -> None:
    newborn = host.runs / f"{runs.NEWBORN}{ID}"
    newborn.mkdir(parents=True)
    born = newborn.lstat().st_mtime
    assert host.collect(Clock(wall=lambda: born + 59)) == []
    with lock(newborn / runs.LOCK):
        assert host.collect(Clock(wall=lambda: born + 3600)) == []
    assert host.collect(Clock(wall=lambda: born + 3600)) == [Collected(newborn.name, "removed")]
    assert not newborn.exists()


# ---- what is not ours ----


def test_a_link_is_not_followed(host: Host, tmp_path: Path) -> None:
    elsewhere = host.leave()
    elsewhere.rename(tmp_path / "elsewhere")
    (host.runs / ID).symlink_to(tmp_path / "elsewhere")
    assert host.collect() == []
    assert (tmp_path / "elsewhere/overlay.qcow2").exists()


def test_a_link_inside_a_run_takes_nothing_with_it(host: Host, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/file").write_text("kept")
    (host.leave() / "link").symlink_to(tmp_path / "precious")
    assert host.collect() == [Collected(ID, "removed")]
    assert (tmp_path / "precious/file").read_text() == "kept"


def test_a_lock_that_is_a_link_keeps_only_its_own_run(host: Host, tmp_path: Path) -> None:
    path = host.leave()
    host.leave("demo-0002")
    (path / runs.LOCK).unlink()
    (path / runs.LOCK).symlink_to(tmp_path / "precious")
    kept, removed = host.collect()
    assert (kept.id, kept.fate) == (ID, "kept")
    assert "cannot be removed" in kept.why
    assert removed == Collected("demo-0002", "removed")
    assert not (tmp_path / "precious").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_another_user_is_kept(host: Host) -> None:
    path = host.leave()
    os.chown(path, 12345, 12345)
    assert host.collect() == [Collected(ID, "kept", "it belongs to another user")]
    assert (path / "overlay.qcow2").exists()


def test_a_run_that_ends_by_itself_meanwhile_is_no_error(host: Host) -> None:
    host.leave()
    host.leave("demo-0002")
    going = collect(host.runs, host.sockets, lambda _: None)
    assert next(going) == Collected(ID, "removed")
    shutil.rmtree(host.runs / "demo-0002")
    assert list(going) == []


# ---- registrations ----


@pytest.fixture
def reached(host: Host) -> Iterator[tuple[Simulator, GitHub]]:
    with github_on_loopback() as (simulator, client):
        host.github = client
        yield simulator, client


Reached = tuple[Simulator, GitHub]


def registered(reached: Reached, *, known: bool = True) -> RunnerRecord:
    simulator, client = reached
    made = client.generate_jitconfig(ID, group_id=1, labels=["demo"])
    fields = {"id": made.runner_id, "state": "registered"} if known else {}
    return RunnerRecord.of(name=ID, api_url=simulator.url, scope=SCOPE, asked=LONG_AGO, **fields)


@pytest.mark.parametrize("known", [True, False], ids=["by id", "by name, since the answer was lost"])
def test_a_registration_is_removed_with_its_run(host: Host, reached: Reached, known: bool) -> None:
    host.leave(runner=registered(reached, known=known))
    assert host.collect() == [Collected(ID, "removed")]
    assert reached[0].state.runners() == []


def test_a_registration_that_was_never_made_is_no_error(host: Host, reached: Reached) -> None:
    host.leave(runner=RunnerRecord.of(name=ID, api_url=reached[0].url, scope=SCOPE, asked=LONG_AGO))
    assert host.collect() == [Collected(ID, "removed")]


def test_a_registration_that_was_asked_for_lately_may_still_appear(host: Host, reached: Reached) -> None:
    host.leave(runner=RunnerRecord.of(name=ID, api_url=reached[0].url, scope=SCOPE, asked=1000.0))
    assert host.collect(Clock(wall=lambda: 1300.0)) == [Collected(ID, "pending", "its registration may still appear")]
    assert host.collect(Clock(wall=lambda: 1301.0)) == [Collected(ID, "removed")]


def test_a_registration_that_github_keeps_stays_on_record_until_it_goes(host: Host, reached: Reached) -> None:
    simulator, _ = reached
    path = host.leave(runner=registered(reached))
    simulator.faults.add(Rule(method="DELETE", status=422, count=1))
    assert host.collect() == [Collected(ID, "pending", "GitHub believes that its job still runs")]
    assert sorted(entry.name for entry in path.iterdir()) == [runs.LOCK, runs.RECORD]
    assert len(simulator.state.runners()) == 1
    assert host.collect() == [Collected(ID, "removed")]
    assert simulator.state.runners() == []
    assert not path.exists()


def test_github_out_of_reach_leaves_it_for_later(host: Host, reached: Reached) -> None:
    simulator, _ = reached
    host.leave(runner=registered(reached))
    simulator.faults.add(Rule(status=503, count=100))
    (pending,) = host.collect()
    assert pending.fate == "pending"
    assert "could not be deleted" in pending.why


def test_a_registration_elsewhere_is_named(host: Host) -> None:
    host.leave(runner=RunnerRecord.of(name=ID, api_url="https://ghe.example", scope="org:other", asked=LONG_AGO))
    (pending,) = host.collect()
    assert pending.fate == "pending"
    assert "org:other at https://ghe.example" in pending.why


def test_a_released_registration_needs_no_github(host: Host) -> None:
    host.leave(runner=RunnerRecord.of(name=ID, api_url="", scope="", asked=LONG_AGO, id=1, state="released"))
    assert host.collect() == [Collected(ID, "removed")]


@pytest.mark.parametrize("error", [UsageError("no credentials"), InfrastructureError("no network")])
def test_a_client_that_cannot_be_made_keeps_the_record(host: Host, error: Exception) -> None:
    def fail(_: RunnerRecord) -> GitHub:
        raise error

    host.leave(runner=RunnerRecord.of(name=ID, api_url="", scope="", asked=LONG_AGO, id=1))
    (pending,) = collect(host.runs, host.sockets, fail)
    assert pending.fate == "pending"
    assert str(error) in pending.why
