"""A job on KVM, from its registration to the end of its machine."""

import json

from ghrunner_vm.errors import ExitCode
from tests.kvm.inside import SECONDS
from tests.lab import Lab


def test_a_job_that_succeeds(lab: Lab) -> None:
    job = lab.job("echo hello from $(id -un)")
    with lab.run() as run:
        assert run.wait_exit(SECONDS) == ExitCode.OK, run.transcript()
    assert (run.outcome, run.result["job-result"]) == ("job-done", "Succeeded")
    assert (lab.finished(job).conclusion, lab.finished(job).log) == ("success", ["hello from runner"])
    (record,) = (json.loads(path.read_text()) for path in lab.state.glob("history/*/run.json"))
    assert record["machine"]["accelerator"] == "kvm"
