"""What Prometheus gets, as its own tool judges it."""

import os
from pathlib import Path

import pytest

from ghrunner_vm import process
from ghrunner_vm.files import lock
from ghrunner_vm.lifecycle import metrics
from ghrunner_vm.lifecycle.textfile import Textfile
from ghrunner_vm.record import RECORD, Peaks, RunRecord, encode_record
from ghrunner_vm.simulator.tiny.apt import apt
from tests.unit.test_ledger import record

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


@pytest.mark.parametrize("run", [record("demo-0001"), ended()], ids=["young", "ended"])
def test_prometheus_finds_no_fault(promtool: str, run: RunRecord) -> None:
    with process.begin([promtool, "check", "metrics"]) as checking:
        assert checking.finish(metrics.text(run, {"limit": 5000, "remaining": 4990}), timeout=60) == ""


def test_what_is_measured() -> None:
    lines = metrics.text(ended(), {"remaining": 4990}).splitlines()
    label = 'label="odd \\"label\\"\\\\"'
    assert [line for line in lines if not line.startswith("#") and "run_phase{" not in line] == [
        f"ghvm_run_created_timestamp_seconds{{{label}}} 1",
        f"ghvm_run_phase_timestamp_seconds{{{label}}} 50.250",
        f"ghvm_run_boot_seconds{{{label}}} 2.500",
        f"ghvm_run_job_seconds{{{label}}} 30.250",
        f"ghvm_run_peak_memory_bytes{{{label}}} 1048576",
        f"ghvm_run_peak_disk_bytes{{{label}}} 4096",
        f'ghvm_run_outcome{{{label},outcome="job-done"}} 1',
        f"ghvm_github_requests_remaining{{{label}}} 4990",
    ]
    assert f'ghvm_run_phase{{{label},phase="done"}} 1' in lines
    assert f'ghvm_run_phase{{{label},phase="busy"}} 0' in lines


def test_the_file_is_for_everybody_and_follows_the_run(tmp_path: Path) -> None:
    warned: list[str] = []
    live, over = tmp_path / "runs", tmp_path / "history"
    textfile = Textfile(tmp_path / "ghvm.prom", (live, over), dict, warned.append)
    textfile.write("demo-0001")
    assert not (tmp_path / "ghvm.prom").exists()
    (live / "demo-0001").mkdir(parents=True)
    (live / "demo-0001" / RECORD).write_bytes(encode_record(record("demo-0001", phase="busy")))
    before = os.umask(0o077)
    textfile.write("demo-0001")
    os.umask(before)
    assert 'phase="busy"} 1' in (tmp_path / "ghvm.prom").read_text()
    assert (tmp_path / "ghvm.prom").stat().st_mode & 0o777 == 0o644
    over.mkdir()
    (live / "demo-0001").rename(over / "demo-0001")
    textfile.write("demo-0001")
    assert warned == []


def test_a_file_that_cannot_be_written_is_told_once(tmp_path: Path) -> None:
    warned: list[str] = []
    (tmp_path / "demo-0001").mkdir()
    (tmp_path / "demo-0001" / RECORD).write_bytes(encode_record(record("demo-0001")))
    textfile = Textfile(tmp_path / "missing/ghvm.prom", (tmp_path,), dict, warned.append)
    for _ in range(3):
        textfile.write("demo-0001")
    assert warned == [f"the metrics cannot be written to {tmp_path}/missing/ghvm.prom: No such file or directory"]
