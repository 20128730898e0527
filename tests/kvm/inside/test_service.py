"""`ghvm systemd --install` and a real systemd: jobs run, a stop loses none of them, and nothing is left."""

import re
from pathlib import Path

from tests.harness import proc
from tests.kvm.inside import SECONDS
from tests.kvm.inside.service import Service
from tests.lab import Lab


def test_a_service_finishes_its_job_when_it_is_stopped_and_takes_no_other(lab: Lab, service: Service) -> None:
    service.start()
    assert service.property("ActiveState") == "active"
    with lab.gate() as gate, service.journal() as journal:
        job, later = lab.job(gate.command), lab.job("true", name="later")
        gate.wait_reached(SECONDS)
        (qemu,) = lab.machines
        slice_ = Path(service.property("ControlGroup")).parent
        scope = rf"0::{slice_}/ghvm-vm-{lab.label}-\w+\.scope\n"
        assert re.fullmatch(scope, proc(qemu, "cgroup").decode()), "with limits of its own, beside the service"
        service.stop("--no-block")
        journal.until("the job is finished first", SECONDS)
        gate.open()
        service.stop()
    assert (service.property("ActiveState"), service.property("Result")) == ("inactive", "success")
    assert lab.finished(job).conclusion == "success"
    assert lab.sim.state.job(later.id).status == "queued"
    assert (service.runs, lab.machines, lab.runners) == ([], [], [])


def test_a_service_goes_on_with_the_next_job(lab: Lab, service: Service) -> None:
    jobs = [lab.job("true", name=name) for name in ("first", "second")]
    service.start()
    for job in jobs:
        done = lab.sim.state.wait_job(job.id, "completed", SECONDS)
        assert done.conclusion == "success"
    service.stop()
    assert len({lab.finished(job).runner_name for job in jobs}) == len(jobs)
    assert (service.runs, lab.machines, lab.runners) == ([], [], [])
