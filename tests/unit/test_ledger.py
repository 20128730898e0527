"""The runs that one can ask about, and the black boxes of those that are over. Real directories, real processes."""

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ghrunner_vm import process, runs
from ghrunner_vm.cli import cli
from ghrunner_vm.errors import UsageError
from ghrunner_vm.history import History
from ghrunner_vm.ledger import Ledger, Stage
from ghrunner_vm.record import RECORD, ProcessRecord, RunRecord, encode_record

ALIVE = ProcessRecord.of(pid=os.getpid(), started=process.start_time(os.getpid()))
GONE = ProcessRecord.of(pid=os.getpid(), started=1)


def record(run_id: str, supervisor: ProcessRecord = ALIVE, **fields: object) -> RunRecord:
    known = {"boot_id": process.boot_id(), "label": "demo", "image": "ubuntu", "since": 1.0, "created": 1.0}
    return RunRecord.of(id=run_id, supervisor=supervisor, **{**known, **fields})


class Host:
    """A state directory."""

    def __init__(self, directory: Path, *, most: int = 50, size: int = 1 << 30) -> None:
        self.history = History(directory / "history", most, size)
        self.ledger = Ledger(directory / "runs", self.history)
        self.ledger.runs.mkdir(mode=0o700)

    def put(self, run: RunRecord) -> Path:
        path = self.ledger.runs / run.id
        path.mkdir(mode=0o700)
        (path / RECORD).write_bytes(encode_record(run))
        (path / runs.LOCK).touch()
        return path

    def end(self, run: RunRecord, at: int, size: int = 0) -> None:
        path = self.put(run)
        (path / runs.CONSOLE).write_bytes(b"x" * size)
        (path / runs.DISK).write_bytes(b"disk")
        os.utime(path / RECORD, (at, at))
        self.history.keep(path)

    @property
    def kept(self) -> list[str]:
        return [kept.path.name for kept in self.history.list()]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def ghvm(host: Host, *words: str) -> Result:
    return CliRunner().invoke(cli, [*words, "--state-dir", str(host.ledger.runs.parent)])


def test_live_dead_and_ended_runs(host: Host) -> None:
    host.put(record("young-0001", created=9.0))
    host.put(record("old-0001", created=2.0))
    host.put(record("dead-0001", GONE, since=5.0))
    host.put(record("rebooted-0001", boot_id="another", since=4.0))
    host.end(record("ended-0001", GONE, ended=7.0), at=7)
    assert [entry.id for entry in host.ledger.live()] == ["old-0001", "young-0001"]
    over = [(entry.id, entry.stage) for entry in host.ledger.over()]
    assert over == [("ended-0001", Stage.ENDED), ("dead-0001", Stage.DEAD), ("rebooted-0001", Stage.DEAD)]


def test_a_run_is_found_by_its_name_or_the_beginning_of_it(host: Host) -> None:
    host.put(record("demo-0001"))
    host.put(record("demo-0002"))
    host.end(record("done-0003", GONE), at=1)
    assert host.ledger.find("demo-0002").id == "demo-0002"
    assert host.ledger.find("done").stage is Stage.ENDED
    with pytest.raises(UsageError, match="several runs begin with demo") as several:
        host.ledger.find("demo")
    assert several.value.details == "demo-0001, demo-0002"
    with pytest.raises(UsageError, match="there are several runs"):
        host.ledger.find(None)
    with pytest.raises(UsageError, match="there is no run demo-0003") as near:
        host.ledger.find("demo-0003")
    assert near.value.resolution is not None
    assert near.value.resolution.startswith("Did you mean demo-000")


def test_a_live_run_comes_before_those_that_ended(host: Host) -> None:
    host.end(record("demo-0001", GONE), at=1)
    assert host.ledger.find(None).id == "demo-0001"
    host.put(record("demo-0002"))
    assert host.ledger.find(None).id == "demo-0002"
    assert host.ledger.find("demo").id == "demo-0002"


def test_only_a_live_run_can_be_entered_or_stopped(host: Host) -> None:
    host.end(record("demo-0001", GONE), at=1)
    with pytest.raises(UsageError, match="the run demo-0001 is over"):
        host.ledger.find_live("demo-0001")
    with pytest.raises(UsageError, match="there is no run demo"):
        host.ledger.find_live("demo")
    with pytest.raises(UsageError, match="there is no run on this host"):
        host.ledger.find_live(None)


def test_an_empty_name_is_no_name(host: Host) -> None:
    """It would be the beginning of every one: a script with an unset variable must not end the only run."""
    host.put(record("demo-0001"))
    for find in (host.ledger.find, host.ledger.find_live):
        with pytest.raises(UsageError, match="name of the run is empty"):
            find("")


def test_a_trial_registration_is_no_live_run(host: Host) -> None:
    host.put(record("ghvm-token-0001", trial=True))
    assert (host.ledger.live(), host.ledger.over()) == ([], [])
    seen = ghvm(host, "ps")
    assert (seen.stdout, seen.stderr) == ("", f"no runs in {host.ledger.runs}\n")
    host.put(record("demo-0002"))
    assert host.ledger.find_live(None).id == "demo-0002"
    host.end(record("ghvm-token-0003", GONE, trial=True), at=1)
    assert host.kept == []


def test_a_record_from_before_trials_were_marked(host: Host) -> None:
    path = host.put(record("demo-0001"))
    document = json.loads((path / RECORD).read_text())
    del document["trial"]
    (path / RECORD).write_text(json.dumps(document))
    assert [entry.id for entry in host.ledger.live()] == ["demo-0001"]


def test_why_tells_of_the_last_run_that_is_over(host: Host) -> None:
    """A service begins the next one a second after a failure."""
    host.put(record("demo-0002"))
    alone = ghvm(host, "why")
    assert (alone.stdout.splitlines()[0][:19], alone.stderr) == ("demo-0002: it lives", "")
    host.end(record("demo-0001", GONE, ended=7.0), at=7)
    told = ghvm(host, "why")
    assert told.stdout.startswith("demo-0001: ")
    assert told.stderr == "live by now, and told of if named: demo-0002\n"
    named = ghvm(host, "why", "demo-0002")
    assert (named.stdout.splitlines()[0][:19], named.stderr) == ("demo-0002: it lives", "")


def make_newer(path: Path) -> None:
    document = json.loads((path / RECORD).read_text())
    (path / RECORD).write_text(json.dumps({**document, "schema-version": 2, "mood": "good"}))


def test_the_history_of_a_newer_ghvm_is_told_of(host: Host) -> None:
    host.end(record("newer-0001", GONE), at=1)
    make_newer(host.history.directory / "newer-0001")
    host.end(record("demo-0001", GONE), at=2)
    told = ghvm(host, "history")
    assert [line.split()[0] for line in told.stdout.splitlines()] == ["RUN", "demo-0001"]
    assert told.stderr == "warning: newer-0001 cannot be read: a newer ghvm has made it\n"
    refused = ghvm(host, "why", "newer-0001")
    assert str(refused.exception) == "the run newer-0001 cannot be read: a newer ghvm has made it"
    assert "warning" not in ghvm(host, "ps").stderr, "it shows what is present"


def test_the_history_of_a_newer_ghvm_counts(tmp_path: Path) -> None:
    host = Host(tmp_path, most=2)
    vmm = ProcessRecord.of(pid=2, started=1)
    for number in range(3):
        host.end(record(f"demo-000{number}", GONE, vmm=vmm), at=number, size=10)
        path = host.history.directory / f"demo-000{number}"
        make_newer(path)
        os.utime(path / RECORD, (number, number))
    host.end(record("demo-0009", GONE, vmm=vmm), at=9)
    assert host.kept == ["demo-0009", "demo-0002"]
    host.history = History(host.history.directory, size=5)
    host.history.prune()
    assert host.kept == ["demo-0009"]


def test_directories_that_tell_nothing_say_why(host: Host) -> None:
    make_newer(host.put(record("newer-0001")))
    (host.put(record("damaged-0001")) / RECORD).write_text("{")
    (host.put(record("empty-0001")) / RECORD).unlink()
    host.put(record("good-0001"))
    (host.ledger.runs / f"{runs.NEWBORN}demo-0002").mkdir()
    assert {one.path.name: one.why for one in host.ledger.unreadable()} == {
        "newer-0001": "a newer ghvm has made it",
        "damaged-0001": "its run.json is missing or damaged",
        "empty-0001": "its run.json is missing or damaged",
    }
    with pytest.raises(UsageError, match="newer-0001 cannot be read: a newer ghvm has made it"):
        host.ledger.find("newer-0001")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_another_users_run_is_told_apart(host: Host) -> None:
    path = host.put(record("foreign-0001"))
    for given in (path / RECORD, path):
        os.chown(given, 12345, 12345)
    assert [one.why for one in host.ledger.unreadable()] == ["it belongs to user 12345"]


def test_a_host_without_runs(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "none", History(tmp_path / "history"))
    assert (ledger.live(), ledger.over(), list(ledger.unreadable())) == ([], [], [])


def test_a_black_box_holds_what_explains_the_end_and_nothing_else(host: Host) -> None:
    path = host.put(record("demo-0001", GONE))
    for name in (
        runs.EVENTS,
        runs.CONSOLE,
        f"{runs.CONSOLE}.old",
        runs.RUNNER,
        runs.VMM,
        runs.DISK,
        "ssh-key",
        "x.sock",
    ):
        (path / name).write_bytes(b"x")
    host.history.keep(path)
    assert not path.exists()
    kept = {entry.name for entry in (host.history.directory / "demo-0001").iterdir()}
    assert kept == {RECORD, runs.EVENTS, runs.CONSOLE, f"{runs.CONSOLE}.old", runs.RUNNER, runs.VMM}


def test_the_oldest_go_when_there_are_too_many(tmp_path: Path) -> None:
    host = Host(tmp_path, most=3)
    vmm = ProcessRecord.of(pid=2, started=1)
    for number in range(5):
        host.end(record(f"demo-000{number}", GONE, vmm=vmm), at=number)
    assert host.kept == ["demo-0004", "demo-0003", "demo-0002"]
    assert sorted(path.name for path in host.history.directory.iterdir()) == sorted(host.kept)


def test_the_oldest_go_when_they_take_too_much_room_but_never_the_last(tmp_path: Path) -> None:
    host = Host(tmp_path, size=100_000)
    vmm = ProcessRecord.of(pid=2, started=1)
    for number in range(4):
        host.end(record(f"demo-000{number}", GONE, vmm=vmm), at=number, size=40_000)
    assert host.kept == ["demo-0003", "demo-0002"]
    host.end(record("demo-0009", GONE, vmm=vmm), at=9, size=200_000)
    assert host.kept == ["demo-0009"]


def test_a_night_of_failed_starts_does_not_push_out_what_had_a_machine(tmp_path: Path) -> None:
    host = Host(tmp_path, most=10)
    host.end(record("job-0001", GONE, vmm=ProcessRecord.of(pid=2, started=1)), at=1)
    for number in range(20):
        host.end(record(f"failed-00{number:02}", GONE), at=10 + number)
    assert host.kept == ["failed-0019", "failed-0018", "job-0001"]


def test_none_are_kept_if_none_are_wanted(tmp_path: Path) -> None:
    host = Host(tmp_path, most=0)
    host.end(record("demo-0001", GONE), at=1)
    assert not host.history.directory.exists()
    assert list(host.ledger.runs.iterdir()) == []


def test_a_deletion_that_was_cut_off_is_finished(host: Host) -> None:
    left = host.history.directory / "demo-0001"
    left.mkdir(parents=True, mode=0o700)
    host.history.directory.chmod(0o700)
    (left / runs.CONSOLE).write_bytes(b"x")
    foreign = host.history.directory / "demo-0002"
    foreign.mkdir()
    (foreign / RECORD).write_text("{}")
    host.end(record("demo-0003", GONE), at=1)
    assert sorted(path.name for path in host.history.directory.iterdir()) == ["demo-0002", "demo-0003"]


@pytest.mark.parametrize("content", ["notes.txt", f"{runs.CONSOLE}/notes.txt"])
def test_what_is_no_black_box_is_nobodys_to_delete(host: Host, content: str) -> None:
    foreign = host.history.directory / "precious-0001" / content
    foreign.parent.mkdir(parents=True)
    foreign.write_text("mine")
    host.history.directory.chmod(0o700)
    host.end(record("demo-0001", GONE), at=1)
    assert foreign.read_text() == "mine"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_what_belongs_to_another_user_is_not_deleted(host: Host) -> None:
    host.end(record("demo-0001", GONE), at=1)
    theirs = host.history.directory / "theirs-0001"
    theirs.mkdir()
    os.chown(theirs, 12345, 12345)
    host.history.prune()
    assert theirs.is_dir()


def test_a_record_that_a_full_disk_kept_back_is_written_at_the_end(host: Host) -> None:
    """The disk of the machine is gone by then, and its room free."""
    with runs.create(host.ledger.runs, record("demo-0001"), bury=host.history.keep) as run:
        run.record = run.record.model_copy(update={"outcome": "disk-full"})
    (entry,) = host.ledger.over()
    assert entry.record.outcome == "disk-full"


def test_nothing_is_kept_where_others_could_change_it(host: Host) -> None:
    """A good job must not end badly for it."""
    host.history.directory.mkdir()
    host.history.directory.chmod(0o777)
    with runs.create(host.ledger.runs, record("demo-0001"), bury=host.history.keep):
        pass
    assert list(host.ledger.runs.iterdir()) == []
    assert list(host.history.directory.iterdir()) == []
