"""A job on KVM, from its registration to the end of its machine, and what `ghvm gc` does after a crash."""

import json
import re

from ghrunner_vm.errors import ExitCode
from tests.kvm.inside import SECONDS
from tests.kvm.inside.service import control_group, is_gone
from tests.lab import Lab


def test_a_job_that_succeeds(lab: Lab) -> None:
    job = lab.job("echo hello from $(id -un)")
    with lab.run() as run:
        assert run.wait_exit(SECONDS) == ExitCode.OK, run.transcript()
    assert (run.outcome, run.result["job-result"]) == ("job-done", "Succeeded")
    assert (lab.finished(job).conclusion, lab.finished(job).log) == ("success", ["hello from runner"])
    (record,) = (json.loads(path.read_text()) for path in lab.state.glob("history/*/run.json"))
    assert record["machine"]["accelerator"] == "kvm"


def test_gc_clears_up_after_a_killed_run(lab: Lab) -> None:
    """Also its control group, which is that of a scope of systemd's."""
    with lab.gate() as gate, lab.run() as run:
        lab.job(gate.command)
        gate.wait_reached(SECONDS)
        (qemu,) = lab.machines
        group = control_group(qemu)
        assert re.fullmatch(r"ghvm-vm-\S+\.scope", group.name)
        run.die(qemu)
    assert len(lab.runs) == 1
    lab.let_go_and_collect()
    assert is_gone(group)
