"""What dead runs left is removed; what lives, or is not ours, is not touched. With real processes and locks."""

import contextlib
import json
import os
import select
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL  # noqa: TID251 a constant: nothing is started with it

import pytest

from ghrunner_vm import process, runs
from ghrunner_vm.clock import Clock
from ghrunner_vm.errors import InfrastructureError, PermanentError, UsageError
from ghrunner_vm.files import lock
from ghrunner_vm.github.client import GitHub
from ghrunner_vm.lifecycle.gc import Collected, collect, sweep
from ghrunner_vm.record import RECORD, ProcessRecord, RunnerRecord, RunRecord, encode_record, read_record
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
        path.mkdir(parents=True, mode=0o700)
        (path / RECORD).write_bytes(encode_record(record))
        (path / runs.LOCK).touch(0o600)
        (path / "overlay.qcow2").write_bytes(b"disk")
        (self.sockets / f"{run_id}.sock").touch()
        return path

    def collect(self, clock: Clock = Clock()) -> list[Collected]:  # noqa: B008 it is frozen
        return list(collect(self.runs, [self.root / "elsewhere", self.sockets], lambda _: self.github, clock))


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@contextlib.contextmanager
def sleeping(program: str = "sleep", inherit: tuple[int, ...] = ()) -> Iterator[process.Child]:
    with process.start([program, "1000"], inherit=inherit, stderr=DEVNULL) as child:
        yield child


def named(child: process.Child) -> ProcessRecord:
    return ProcessRecord.of(pid=child.pid, started=child.started)


def _still(program: Path) -> str:
    """A program that tells its id and stays, without a child of its own; the kernel knows it by its file's name."""
    program.write_text("#!/bin/sh\ntrap '' HUP\necho $$\nwhile :; do kill -STOP $$; done\n")
    program.chmod(0o755)
    return str(program)


@pytest.fixture
def qemu(tmp_path: Path) -> str:
    """A program that the kernel knows by a VMM's name."""
    return _still(tmp_path / "qemu-system-x86_64")


@dataclass(frozen=True)
class Orphan:
    """A process that lives on after the one that started it; its pidfd tells when it ends."""

    pid: int
    pidfd: int

    @property
    def alive(self) -> bool:
        return not select.select([self.pidfd], [], [], 0)[0]


@contextlib.contextmanager
def orphaned(program: str, inherit: tuple[int, ...] = ()) -> Iterator[Orphan]:
    """A shell starts the program and ends."""
    ours, theirs = os.pipe()
    argv = ["sh", "-c", f"{program} &"]
    with os.fdopen(ours) as told, process.start(argv, inherit=inherit, stderr=DEVNULL, stdout=theirs) as shell:
        os.close(theirs)
        pid = int(told.readline())
        assert shell.join(30) == 0
    pidfd = os.pidfd_open(pid)
    try:
        yield Orphan(pid, pidfd)
    finally:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.close(pidfd)


# ---- what is left is removed ----


def record(run_id: str = ID) -> RunRecord:
    own = ProcessRecord.of(pid=os.getpid(), started=0)
    return RunRecord.of(id=run_id, boot_id="", supervisor=own, label="demo", image="ubuntu", since=1.0, created=1.0)


def test_nothing_is_left_of_a_dead_run(host: Host) -> None:
    path = host.leave()
    assert host.collect() == [Collected(ID, "removed")]
    assert not path.exists()
    assert list(host.sockets.iterdir()) == []
    assert host.collect() == []


def test_a_host_without_runs(host: Host) -> None:
    assert host.collect() == []


@pytest.mark.parametrize("content", [[], [runs.LOCK], [runs.LOCK, ".run.json.0123abcd"]])
def test_a_run_that_died_at_its_birth_is_removed_at_once(host: Host, content: list[str]) -> None:
    newborn = host.runs / f"{runs.NEWBORN}{ID}"
    newborn.mkdir(parents=True, mode=0o700)
    for name in content:
        (newborn / name).touch()
    assert host.collect() == [Collected(newborn.name, "removed")]
    assert not newborn.exists()


def test_a_scratch_directory_of_a_dead_run_is_removed(host: Host) -> None:
    with runs.scratch(host.runs, "images") as directory:
        (directory / "images/abc").mkdir(parents=True)
        assert host.collect() == []
        assert directory.is_dir()
        lost = host.runs / f"{runs.NEWBORN}images-0001"
        shutil.copytree(directory, lost)
        lost.chmod(0o700)
        assert host.collect() == [Collected(lost.name, "removed")]
    assert list(host.runs.iterdir()) == []


def test_half_a_removal_is_finished(host: Host) -> None:
    path = host.leave()
    for entry in (RECORD, "overlay.qcow2"):
        (path / entry).unlink()
    host.leave("demo-0002")
    for left in (host.runs / "demo-0002").iterdir():
        left.unlink()
    assert host.collect() == [Collected(ID, "removed"), Collected("demo-0002", "removed")]


def test_what_was_staged_in_the_state_directory_is_removed(tmp_path: Path) -> None:
    kept = ["kvm.json", ".kvm.json", ".kvm.json.0123abcg", "runs"]
    for name in (*kept, ".kvm.json.0123abcd"):
        (tmp_path / name).touch()
    sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(kept)
    sweep(tmp_path / "missing")


# ---- virtual machines ----


def test_a_vmm_whose_supervisor_is_gone_is_ended_even_if_nobody_has_recorded_it(host: Host, qemu: str) -> None:
    path = host.leave()
    with contextlib.ExitStack() as stack:
        with lock(path / runs.LOCK, shared=True) as held:
            orphan = stack.enter_context(orphaned(qemu, inherit=(held,)))
        assert orphan.alive
        assert host.collect() == [Collected(ID, "removed")]
        assert not orphan.alive


def test_a_vmm_whose_supervisor_lives_is_left_alone_whatever_the_record_says(host: Host, qemu: str) -> None:
    path = host.leave()
    with lock(path / runs.LOCK, shared=True) as held, sleeping(qemu, inherit=(held,)) as vmm:
        assert host.collect() == []
        assert vmm.poll() is None


def test_a_vmm_that_holds_no_lock_of_ours_is_not_ended(host: Host, qemu: str) -> None:
    with orphaned(qemu) as vmm:
        started = process.start_time(vmm.pid)
        host.leave(vmm=ProcessRecord.of(pid=vmm.pid, started=started))
        assert host.collect() == [Collected(ID, "removed")]
        assert vmm.alive


def test_the_vmm_of_another_run_is_not_ended(host: Host, qemu: str) -> None:
    other = host.leave("demo-0002")
    with contextlib.ExitStack() as stack:
        held = stack.enter_context(lock(other / runs.LOCK, shared=True))
        vmm = stack.enter_context(sleeping(qemu, inherit=(held,)))
        host.leave(vmm=named(vmm))
        assert host.collect() == [Collected(ID, "removed")]
        assert vmm.poll() is None


def test_another_program_that_holds_the_lock_is_not_ended(host: Host) -> None:
    path = host.leave()
    with contextlib.ExitStack() as stack:
        with lock(path / runs.LOCK, shared=True) as held:
            bystander = stack.enter_context(orphaned(_still(host.root / "bystander"), inherit=(held,)))
        assert host.collect() == []
        assert bystander.alive


def test_a_record_does_not_make_gc_end_another_program(host: Host) -> None:
    with sleeping() as bystander:
        host.leave(vmm=named(bystander))
        assert host.collect() == [Collected(ID, "removed")]
        assert bystander.poll() is None


# ---- what lives is not touched ----


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


def test_a_newborn_that_gc_takes_for_a_leftover_is_made_again(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """gc comes between the making of the directory and its lock, three times."""
    mkdir = Path.mkdir
    visits: list[Collected] = []

    def visited(self: Path, *args: object, **kwargs: object) -> None:
        mkdir(self, *args, **kwargs)  # type: ignore[arg-type]
        if self.name.startswith(runs.NEWBORN) and len(visits) < 3:
            visits.extend(host.collect())

    # Only this moment tells; there is no hook for it in the code and none is needed.
    monkeypatch.setattr(Path, "mkdir", visited)
    with runs.create(host.runs, record()) as run:
        assert [one.fate for one in visits] == ["removed"] * 3
        assert host.collect() == []
        assert read_record(run.path) == run.record
    assert list(host.runs.iterdir()) == []


def test_a_run_that_is_being_removed_is_no_error(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """gc comes just when a run that ends has deleted its lock."""
    unlink = Path.unlink
    visits: list[str] = []

    def visited(self: Path, missing_ok: bool = False) -> None:
        unlink(self, missing_ok)
        if self.name == runs.LOCK and not visits:
            visits.append(ID)
            assert host.collect() == [Collected(ID, "removed")]

    monkeypatch.setattr(Path, "unlink", visited)  # as above
    with runs.create(host.runs, record()):
        pass
    assert visits == [ID]
    assert list(host.runs.iterdir()) == []


# ---- what is not ours: nothing of it is deleted, what else there is goes ----


def kept(host: Host, why: str) -> None:
    """One run is kept for this reason, and the innocent one beside it is removed all the same."""
    host.leave("innocent-0002")
    one, other = sorted(host.collect(), key=lambda collected: collected.id)
    assert (one.id, one.fate) == (ID, "kept")
    assert why in one.why
    assert other == Collected("innocent-0002", "removed")


def everything(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


def test_a_directory_that_no_run_has_made_is_kept(host: Host) -> None:
    """Somebody's --state-dir has a `runs` already."""
    (host.runs / ID / "reports").mkdir(parents=True)
    (host.runs / ID).chmod(0o700)
    (host.runs / ID / "reports/2024.csv").write_text("precious")
    kept(host, "it has no lock")
    assert everything(host.runs / ID) == ["reports", "reports/2024.csv"]


def test_a_directory_that_others_can_read_is_none_of_a_run(host: Host) -> None:
    """As /var/lib/dpkg, which has a `lock`, too."""
    host.leave().chmod(0o755)
    kept(host, "it is open to others")
    assert (host.runs / ID / "overlay.qcow2").exists()


def whoever_can_write(path: Path) -> None:
    path.chmod(0o777)


def whoever_owns(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a directory away")
    os.chown(path, 12345, 12345)


def a_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


@pytest.mark.parametrize("given", [whoever_can_write, whoever_owns, a_link])
def test_nothing_happens_in_a_directory_of_runs_that_is_not_ours_alone(
    host: Host, given: Callable[[Path], None]
) -> None:
    host.leave()
    given(host.runs)
    with pytest.raises(PermanentError, match="cannot be trusted"):
        host.collect()
    with pytest.raises(PermanentError, match="cannot be trusted"), runs.create(host.runs, record("demo-0002")):
        pass
    assert (host.runs / ID / "overlay.qcow2").exists()
    assert [path.name for path in host.runs.iterdir()] == [ID]


def test_a_directory_of_runs_that_is_replaced_meanwhile_is_still_the_one_that_was_checked(host: Host) -> None:
    host.leave()
    host.leave("demo-0002")
    going = collect(host.runs, [host.sockets], lambda _: None)
    assert next(going) == Collected(ID, "removed")
    checked = host.runs.rename(host.root / "checked")
    precious = host.leave("demo-0002")
    assert list(going) == [Collected("demo-0002", "removed")]
    assert (list(checked.iterdir()), (precious / "overlay.qcow2").exists()) == ([], True)


def _record(**changes: object) -> bytes:
    good = RunRecord.of(id=ID, boot_id="", supervisor=DEAD, label="demo", image="ubuntu", since=1.0, created=1.0)
    return json.dumps({**json.loads(encode_record(good)), **changes}).encode()


_ANOTHER = RunnerRecord.of(name="the-runner-of-somebody-else", api_url="", scope="", asked=0.0, id=1)


def _written(content: bytes) -> Callable[[Path, Path], object]:
    return lambda path, _: path.write_bytes(content)


def _deep(path: Path, _: Path) -> None:
    (path / "deep").mkdir(parents=True)


@pytest.mark.parametrize(
    "put",
    [
        pytest.param(_written(b""), id="empty"),
        pytest.param(_written(b"\0\xff"), id="no JSON"),
        pytest.param(_written(_record(**{"schema-version": 2})), id="of a later ghvm"),
        pytest.param(_written(_record(id="demo-0009")), id="of another run"),
        pytest.param(_written(_record(id="../../etc")), id="of a path"),
        pytest.param(
            _written(_record(runner=json.loads(_ANOTHER.model_dump_json(by_alias=True)))), id="another runner"
        ),
        pytest.param(_written(_record() + b" " * (1 << 20)), id="huge"),
        pytest.param(lambda path, _: os.mkfifo(path), id="a FIFO"),
        pytest.param(lambda path, precious: path.symlink_to(precious), id="a link"),
        pytest.param(lambda path, precious: path.hardlink_to(precious), id="a hard link"),
        pytest.param(_deep, id="a directory"),
    ],
)
def test_a_record_that_is_none_is_kept_for_a_person_without_what_takes_room(
    host: Host, tmp_path: Path, put: Callable[[Path, Path], object]
) -> None:
    precious = tmp_path / "precious"
    precious.write_text("kept")
    path = host.leave()
    (path / RECORD).unlink()
    put(path / RECORD, precious)
    kept(host, "cannot read its run.json")
    assert sorted(entry.name for entry in path.iterdir()) == [runs.LOCK, RECORD]
    assert precious.read_text() == "kept"
    assert list(host.sockets.iterdir()) == []


@pytest.mark.parametrize("name", ["overlay.qcow2", "console.log", "more"])
def test_what_a_file_of_a_run_links_to_is_kept(host: Host, tmp_path: Path, name: str) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/file").write_text("kept")
    path = host.leave()
    (path / name).unlink(missing_ok=True)
    (path / name).symlink_to(tmp_path / "precious")
    (path / "hard").hardlink_to(tmp_path / "precious/file")
    assert host.collect() == [Collected(ID, "removed")]
    assert (tmp_path / "precious/file").read_text() == "kept"


def test_what_a_socket_links_to_is_kept(host: Host, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    host.leave()
    (host.sockets / f"{ID}.sock").unlink()
    (host.sockets / f"{ID}.sock").symlink_to(tmp_path / "precious")
    assert host.collect() == [Collected(ID, "removed")]
    assert (tmp_path / "precious").read_text() == "kept"


def test_a_pending_run_gives_up_directories_too(host: Host) -> None:
    path = host.leave(runner=RunnerRecord.of(name=ID, api_url="", scope="", asked=LONG_AGO))
    (path / "deep/er").mkdir(parents=True)
    assert [one.fate for one in host.collect()] == ["pending"]
    assert everything(path) == [runs.LOCK, RECORD]


def test_a_lock_that_is_another_runs_keeps_its_run(host: Host) -> None:
    path, other = host.leave(), host.leave("demo-0002")
    (path / runs.LOCK).unlink()
    (path / runs.LOCK).hardlink_to(other / runs.LOCK)
    with lock(other / runs.LOCK, shared=True):
        assert host.collect() == []
    assert {one.fate for one in host.collect()} == {"removed"}


def test_a_lock_that_is_a_directory_keeps_only_its_own_run(host: Host) -> None:
    path = host.leave()
    (path / runs.LOCK).unlink()
    (path / runs.LOCK).mkdir()
    kept(host, "it cannot be removed: Is a directory")


def test_a_link_is_not_followed(host: Host, tmp_path: Path) -> None:
    elsewhere = host.leave()
    elsewhere.rename(tmp_path / "elsewhere")
    (host.runs / ID).symlink_to(tmp_path / "elsewhere")
    assert host.collect() == []
    assert (tmp_path / "elsewhere/overlay.qcow2").exists()


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
    going = collect(host.runs, [host.sockets], lambda _: None)
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


def test_a_registration_that_appears_late_is_removed(host: Host, reached: Reached) -> None:
    host.leave(runner=RunnerRecord.of(name=ID, api_url=reached[0].url, scope=SCOPE, asked=1000.0))
    assert [one.fate for one in host.collect(Clock(wall=lambda: 1100.0))] == ["pending"]
    reached[1].generate_jitconfig(ID, group_id=1, labels=["demo"])
    assert host.collect(Clock(wall=lambda: 1100.0)) == [Collected(ID, "removed")]
    assert reached[0].state.runners() == []


def test_the_id_in_a_record_does_not_delete_somebody_elses_runner(host: Host, reached: Reached) -> None:
    simulator, client = reached
    victim = client.generate_jitconfig("victim", group_id=1, labels=["demo"])
    host.leave(runner=registered(reached).model_copy(update={"id": victim.runner_id}))
    host.leave("demo-0002", runner=_named("demo-0002", simulator.url, victim.runner_id))
    assert host.collect() == [Collected(ID, "removed"), Collected("demo-0002", "removed")]
    assert [runner.name for runner in simulator.state.runners()] == ["victim"]


def _named(name: str, url: str, runner_id: int) -> RunnerRecord:
    return RunnerRecord.of(name=name, api_url=url, scope=SCOPE, asked=Clock().wall(), id=runner_id, state="registered")


def test_a_registration_that_github_keeps_stays_on_record_until_it_goes(host: Host, reached: Reached) -> None:
    simulator, _ = reached
    path = host.leave(runner=registered(reached))
    simulator.faults.add(Rule(method="DELETE", status=422, count=1))
    assert host.collect() == [Collected(ID, "pending", "GitHub believes that its job still runs")]
    assert sorted(entry.name for entry in path.iterdir()) == [runs.LOCK, RECORD]
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
    (pending,) = collect(host.runs, [host.sockets], fail)
    assert pending.fate == "pending"
    assert str(error) in pending.why
