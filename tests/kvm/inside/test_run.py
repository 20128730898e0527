"""A job on KVM, from its registration to the end of its machine, and what `ghvm gc` does after a crash."""

import json
import os
import re
import signal
from pathlib import Path

from ghrunner_vm.errors import ExitCode
from tests.harness import proc, wait_gone
from tests.kvm.inside import SECONDS
from tests.kvm.inside.service import systemctl
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
        group = Path("/sys/fs/cgroup") / proc(qemu, "cgroup").decode().strip().removeprefix("0::/")
        assert re.fullmatch(r"ghvm-vm-\S+\.scope", group.name)
        pidfd = os.pidfd_open(qemu)
        try:
            run.send(signal.SIGKILL)
            wait_gone(pidfd)
        finally:
            os.close(pidfd)
    assert len(lab.runs) == 1
    lab.let_go_and_collect()
    # The answer comes after systemd has seen that the group is empty.
    assert json.loads(systemctl("list-units", "--all", "--output=json", group.name)) == []
    assert not group.exists()
