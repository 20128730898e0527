"""What Prometheus gets, as its own tool judges it."""

import os
import re
from pathlib import Path

import pytest

from ghrunner_vm import process, runs
from ghrunner_vm.errors import GhvmError
from ghrunner_vm.files import lock
from ghrunner_vm.lifecycle import events as ev
from ghrunner_vm.lifecycle import metrics
from ghrunner_vm.lifecycle.metrics import Snapshot
from ghrunner_vm.lifecycle.state import Phase, State
from ghrunner_vm.lifecycle.teller import Teller
from ghrunner_vm.lifecycle.textfile import Textfile
from ghrunner_vm.record import RECORD, Peaks, RunRecord, encode_record
from ghrunner_vm.simulator.tiny.apt import apt
from tests.integration.virtual_clock import VirtualTime
from tests.unit.test_ledger import record

LABEL = "demo"
PHASES = {"booting": 10.0, "ready": 12.5, "idle": 13.0, "busy": 20.0, "done": 50.25}


def ended() -> RunRecord:
    peaks = Peaks.of(cpu_seconds=3.0, memory=1 << 20, disk=4096)
    known = {"phases": PHASES, "phase": "done", "peaks": peaks, "outcome": "job-done", "since": 50.25}
    return record("demo-0001", label='odd "label"\\').model_copy(update=known)


@pytest.fixture(scope="session")
def promtool(kept: Path) -> str:
    """Prometheus' own checker, out of the distribution's package."""
    with lock(kept / "prometheus.lock"):
        if not (kept / "prometheus").exists():
            apt("x86_64", kept).unpack(["prometheus"], kept / "prometheus.new")
            (kept / "prometheus.new").rename(kept / "prometheus")
    return str(kept / "prometheus/usr/bin/promtool")


def of(run: RunRecord | None, **known: object) -> Snapshot:
    label = LABEL if run is None else run.label
    return Snapshot(label, run, **known)  # type: ignore[arg-type]


FULL = {"failures": 3, "budget": {"limit": 5000, "remaining": 4990}}


@pytest.mark.parametrize(
    "snapshot",
    [of(record("demo-0001"), **FULL), of(ended(), **FULL), of(None, failed=2.5, **FULL), of(record("demo-0001"))],
    ids=["young", "ended", "failed", "bare"],
)
def test_prometheus_finds_no_fault(promtool: str, snapshot: Snapshot) -> None:
    with process.begin([promtool, "check", "metrics"]) as checking:
        assert checking.finish(metrics.text(snapshot), timeout=60) == ""


def samples(snapshot: Snapshot) -> list[str]:
    """All but the phases that the run is not in."""
    lines = metrics.text(snapshot).splitlines()
    return [line for line in lines if line[0] != "#" and not (line.startswith("ghvm_run_phase{") and line[-1] == "0")]


def test_what_is_measured() -> None:
    label = 'label="odd \\"label\\"\\\\"'
    assert samples(of(ended(), failures=0, budget={"remaining": 4990})) == [
        f'ghvm_run_phase{{{label},phase="done"}} 1',
        f"ghvm_run_created_timestamp_seconds{{{label}}} 1",
        f"ghvm_run_phase_timestamp_seconds{{{label}}} 50.250",
        f"ghvm_run_boot_seconds{{{label}}} 2.500",
        f"ghvm_run_job_seconds{{{label}}} 30.250",
        f"ghvm_run_peak_memory_bytes{{{label}}} 1048576",
        f"ghvm_run_peak_disk_bytes{{{label}}} 4096",
        f"ghvm_failed_runs{{{label}}} 0",
        f"ghvm_github_requests_remaining{{{label}}} 4990",
        f'ghvm_run_outcome{{{label},outcome="job-done"}} 1',
    ]
    assert f'ghvm_run_phase{{{label},phase="busy"}} 0' in metrics.text(of(ended())).splitlines()


@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "not recorded"])
def test_a_run_that_an_error_ended_is_done_and_failed(recorded: bool) -> None:
    """The disk may have been too full to record it."""
    run = record("demo-0001", ended=7.0 if recorded else None)
    assert samples(of(run, failed=None if recorded else 7.0)) == [
        'ghvm_run_phase{label="demo",phase="done"} 1',
        'ghvm_run_created_timestamp_seconds{label="demo"} 1',
        'ghvm_run_phase_timestamp_seconds{label="demo"} 7',
        'ghvm_run_outcome{label="demo",outcome="failed"} 1',
    ]


class Place:
    """A directory of runs, a history, and the file of metrics of one service."""

    def __init__(self, directory: Path) -> None:
        self.live, self.over = directory / "runs", directory / "history"
        self.path = directory / "ghvm.prom"
        self.warned: list[str] = []
        self.textfile = self.watch(self.path)

    def watch(self, path: Path | None) -> Textfile:
        clock = VirtualTime(now=9.0).clock
        return Textfile(path, "demo", (self.live, self.over), lambda: 1, self.warned.append, clock)

    def put(self, run: RunRecord) -> None:
        (self.live / run.id).mkdir(parents=True, exist_ok=True)
        (self.live / run.id / RECORD).write_bytes(encode_record(run))
        self.textfile.run_id = run.id

    def fail(self) -> None:
        with pytest.raises(GhvmError), self.textfile.to_the_end():
            raise GhvmError("it failed")

    @property
    def outcomes(self) -> list[str]:
        return re.findall(r'ghvm_run_outcome{label="demo",outcome="(.*)"} 1', self.path.read_text())

    @property
    def phases(self) -> list[str]:
        return re.findall(r'ghvm_run_phase{label="demo",phase="(.*)"} 1', self.path.read_text())


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_the_file_is_for_everybody_and_follows_the_run(place: Place) -> None:
    place.textfile.write()
    assert not place.path.exists()
    place.put(record("demo-0001", phase="busy"))
    before = os.umask(0o077)
    place.textfile.write()
    os.umask(before)
    assert (place.phases, place.outcomes) == (["busy"], [])
    assert place.path.stat().st_mode & 0o777 == 0o644
    place.put(record("demo-0001", phase="done", outcome="job-done"))
    place.live.rename(place.over)
    with place.textfile.to_the_end():
        pass
    assert (place.phases, place.outcomes, place.warned) == (["done"], ["job-done"], [])


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase not in (Phase.PREPARING, Phase.DONE)])
def test_each_phase_is_told_once_it_is_recorded(place: Place, phase: Phase) -> None:
    """So that the file has it. The first and the last are told in words of their own."""
    place.live.mkdir(mode=0o700)
    with runs.create(place.live, record("demo-0001")) as run:
        teller = Teller("demo-0001", lambda *_, **__: place.textfile.write())
        teller.run, place.textfile.run_id = run, "demo-0001"
        teller.observe(State(), ev.Launched(), State(phase=phase))
    assert place.phases == [phase.value]


def test_what_fails_is_told_even_if_it_never_was_a_run(place: Place) -> None:
    place.fail()
    assert (place.phases, place.outcomes) == (["done"], ["failed"])
    assert 'ghvm_failed_runs{label="demo"} 1\n' in place.path.read_text()


def test_what_fails_is_told_even_if_no_history_keeps_it(place: Place) -> None:
    place.put(record("demo-0001"))
    place.textfile.write()
    assert place.phases == ["preparing"]
    place.live.rename(place.live.with_name("gone"))
    place.fail()
    assert (place.phases, place.outcomes) == (["done"], ["failed"])


def test_an_outcome_says_more_than_that_it_failed(place: Place) -> None:
    place.put(record("demo-0001", phase="done", outcome="boot-failed", ended=8.0))
    place.fail()
    assert place.outcomes == ["boot-failed"]


def test_nobody_wants_a_file(place: Place, tmp_path: Path) -> None:
    place.textfile = place.watch(None)
    place.put(record("demo-0001"))
    place.textfile.write()
    place.fail()
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_a_file_that_cannot_be_written_is_told_once(place: Place, tmp_path: Path) -> None:
    place.textfile = place.watch(tmp_path / "missing/ghvm.prom")
    place.put(record("demo-0001"))
    for _ in range(3):
        place.textfile.write()
    assert place.warned == [f"the metrics cannot be written to {tmp_path}/missing/ghvm.prom: No such file or directory"]
