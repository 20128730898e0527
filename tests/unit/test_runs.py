"""The run directory: born locked, read with suspicion, gone at the end."""

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghrunner_vm import process, runs
from ghrunner_vm.clock import Clock
from ghrunner_vm.files import Locked, lock
from ghrunner_vm.record import RECORD, ProcessRecord, RunnerRecord, RunRecord, encode_record, read_record
from ghrunner_vm.runs import RunDirectory


def record(run_id: str = "demo-0001", **fields: object) -> RunRecord:
    own = ProcessRecord.of(pid=os.getpid(), started=process.start_time(os.getpid()))
    given = {"supervisor": own, "label": "demo", "image": "ubuntu", "since": 1.0, "created": 1.0, **fields}
    return RunRecord.of(id=run_id, boot_id=process.boot_id(), **given)


RUNNER = RunnerRecord.of(name="demo-0001", api_url="https://api.github.com", scope="org:demo-org", asked=5.0)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunDirectory]:
    with runs.create(tmp_path, record(), Clock(wall=lambda: 7.0)) as made:
        yield made


def test_a_run_is_seen_with_its_lock_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Watched at every rename, since nothing else changes what others see."""
    seen: list[str] = []
    rename = Path.rename

    def watched(self: Path, target: Path) -> Path:
        if self.name.startswith(runs.NEWBORN):
            assert [path.name for path in runs.directories(tmp_path)] == [f"{runs.NEWBORN}demo-0001"]
            assert read_record(self) is None, "a newborn is no run yet"
            with runs.adopt(self) as held:
                assert held is None, "it is locked before it has its name"
            seen.append(target.name)
        return rename(self, target)

    # Only the moment of the rename tells; there is no hook for it in the code and none is needed.
    monkeypatch.setattr(Path, "rename", watched)
    with runs.create(tmp_path, record()) as run:
        assert seen == ["demo-0001"]
        with pytest.raises(Locked), lock(run.path / runs.LOCK, wait=False):
            pass


def test_a_record_is_read_as_it_was_written(run: RunDirectory) -> None:
    vmm = ProcessRecord.of(pid=12345, started=678)
    run.update(runner=RUNNER, vmm=vmm, commit="abc", phase="idle", ssh_port=2222)
    again = read_record(run.path)
    assert again == run.record
    assert again is not None
    assert (again.since, again.runner, again.vmm) == (7.0, RUNNER, vmm)
    assert set(json.loads((run.path / RECORD).read_text())) >= {"schema-version", "boot-id", "ssh-port"}


def test_a_phase_that_stays_keeps_its_beginning(run: RunDirectory) -> None:
    run.update(phase="preparing", commit="abc")
    assert run.record.since == 1.0


def test_a_run_that_left_nothing_is_gone(tmp_path: Path) -> None:
    with runs.create(tmp_path, record()) as run:
        (run.path / "overlay.qcow2").write_bytes(b"disk")
        run.update(runner=RUNNER.model_copy(update={"state": "released"}))
    assert list(tmp_path.iterdir()) == []


def test_a_registration_that_may_be_left_stays_on_record(tmp_path: Path) -> None:
    with runs.create(tmp_path, record()) as run:
        (run.path / "overlay.qcow2").write_bytes(b"disk")
        run.update(runner=RUNNER)
        run.log("trouble")
    assert sorted(path.name for path in run.path.iterdir()) == ["events.jsonl", "lock", "run.json"]
    kept = read_record(run.path)
    assert kept is not None
    assert kept.runner == RUNNER
    with runs.adopt(run.path) as held:
        assert held is not None


def test_a_directory_that_gc_has_taken_over_is_no_error(tmp_path: Path) -> None:
    with runs.create(tmp_path, record()) as run:
        runs.remove(run.path)
    assert list(tmp_path.iterdir()) == []


def test_events_are_bounded(run: RunDirectory) -> None:
    for _ in range(50):
        run.log("guest-log", detail="x" * 100_000)
    assert (run.path / runs.EVENTS).stat().st_size <= 4 << 20


def test_events_that_cannot_be_written_are_lost_in_silence(run: RunDirectory) -> None:
    (run.path / runs.EVENTS).mkdir()  # no file can be opened there, not even by root
    run.log("Launched", phase="booting")


@given(st.binary())
def test_no_record_makes_read_raise(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "demo-0001"
    path.mkdir(exist_ok=True)
    (path / RECORD).write_bytes(content)
    assert read_record(path) is None


ODD = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just({"pid": 10**30, "started": 0})


@given(st.sampled_from(sorted(json.loads(encode_record(record())))), ODD)
def test_a_record_with_any_odd_field_can_be_acted_on(
    tmp_path_factory: pytest.TempPathFactory, field: str, value: object
) -> None:
    path = tmp_path_factory.getbasetemp() / "demo-0001"
    path.mkdir(exist_ok=True)
    (path / RECORD).write_text(json.dumps({**json.loads(encode_record(record())), field: value}))
    found = read_record(path)
    if found is not None:
        assert found.id == "demo-0001"
        assert found.supervisor.alive()


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    path = tmp_path / "demo-0001"
    path.mkdir()
    return path


def test_the_record_alone_would_be_good(hostile: Path) -> None:
    (hostile / RECORD).write_bytes(encode_record(record()))
    assert read_record(hostile) == record()


@pytest.mark.parametrize("pid", [-1, 0, 1, 1 << 23, 10**30])
def test_a_process_that_cannot_be(hostile: Path, pid: int) -> None:
    text = encode_record(record()).decode().replace(f'"pid": {os.getpid()}', f'"pid": {pid}')
    (hostile / RECORD).write_text(text)
    assert read_record(hostile) is None


def test_a_record_of_another_run(hostile: Path) -> None:
    (hostile / RECORD).write_bytes(encode_record(record("demo-0002")))
    assert read_record(hostile) is None


def test_a_link_to_a_record(hostile: Path, tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(encode_record(record()))
    (hostile / RECORD).symlink_to(tmp_path / "real")
    assert read_record(hostile) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_record_of_another_user(hostile: Path) -> None:
    (hostile / RECORD).write_bytes(encode_record(record()))
    os.chown(hostile / RECORD, 12345, 12345)
    assert read_record(hostile) is None


def test_a_record_that_is_too_large(hostile: Path) -> None:
    (hostile / RECORD).write_bytes(encode_record(record()) + b" " * (1 << 20))
    assert read_record(hostile) is None


def test_a_record_that_fills_the_memory(hostile: Path) -> None:
    with (hostile / RECORD).open("wb") as file:
        file.truncate(1 << 40)
    assert read_record(hostile) is None


def test_what_is_no_file_at_all(hostile: Path) -> None:
    assert read_record(hostile) is None
    (hostile / RECORD).mkdir()
    assert read_record(hostile) is None
    (hostile / RECORD).rmdir()
    os.mkfifo(hostile / RECORD)
    assert read_record(hostile) is None
    (hostile / RECORD).unlink()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(hostile / RECORD))
        assert read_record(hostile) is None


def test_what_may_be_a_run(tmp_path: Path) -> None:
    for name in ("demo-0001", ".new-demo-0002", "-x", "UPPER", ".hidden", "a", "x" * 65):
        (tmp_path / name).mkdir()
    (tmp_path / "demo-0003").write_text("a file")
    (tmp_path / "demo-0004").symlink_to(tmp_path / "demo-0001")
    assert [path.name for path in runs.directories(tmp_path)] == [".new-demo-0002", "demo-0001"]
    assert runs.directories(tmp_path / "missing") == []


@given(st.text())
def test_every_label_gives_a_fit_id(label: str) -> None:
    run_id = runs.new_id(label)
    assert len(run_id) <= 63
    RunnerRecord.of(name=run_id, api_url="", scope="", asked=0.0)
    assert run_id != runs.new_id(label)
