"""ghvm of an ordinary user: a job on KVM behind slirp4netns, and what its guest does not reach."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from grp import getgrnam
from pathlib import Path

import pytest

from ghrunner_vm.errors import ExitCode
from tests import guests, hostile
from tests.harness import proc
from tests.kvm.inside import SECONDS
from tests.lab import GHVM, Lab

_USER = 4321


@pytest.fixture
def users_lab(lab: Lab, proof: Path) -> Iterator[Lab]:
    """The lab in a directory of an ordinary user who may use KVM, and nothing else."""
    kvm = str(getgrnam("kvm").gr_gid)
    user = ("setpriv", "--reuid", str(_USER), "--regid", str(_USER), "--groups", kvm, "--inh-caps=-all")
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="user-") as name:
        home = Path(name)
        (home / "tmp").mkdir()
        (home / "r").mkdir(mode=0o700)
        (home / "state").mkdir(mode=0o700)
        shutil.copy(proof, home / "state")
        shutil.copy(lab.directory / "key.pem", home)
        for path in (home, *home.rglob("*")):
            os.chown(path, _USER, _USER)
        reach = ("--egress-allow", f"127.0.0.1:{lab.sim.port}")
        made = replace(lab, directory=home, cache=home / "cache", program=(*user, *GHVM), reach=reach)
        yield made
        assert made.leftovers() == []


def test_a_job_of_an_ordinary_users(users_lab: Lab) -> None:
    images = f"10.0.2.2:{users_lab.images_url.rpartition(':')[2]}"
    with users_lab.run(image=guests.ROOT) as run:
        job = users_lab.job("\n".join((hostile.TRY, "try 10.0.2.2", f"try {images}", "try 169.254.169.254")))
        run.wait("busy", SECONDS)
        (qemu,) = users_lab.machines
        status = dict(line.split(":\t", 1) for line in proc(qemu, "status").decode().splitlines() if ":\t" in line)
        assert run.wait_exit(SECONDS) == ExitCode.OK, run.transcript()
    assert run.outcome == "job-done"
    assert hostile.answers(users_lab.finished(job).log) == dict.fromkeys(("10.0.2.2", images, "169.254.169.254"), "no")
    assert (status["Uid"].split()[0], status["Seccomp"], status["NoNewPrivs"]) == (str(_USER), "2", "1")
