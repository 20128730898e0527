"""KVM is real here, and ghvm sees it."""

import json

import pytest
from click.testing import CliRunner

from ghrunner_vm.cli import cli
from ghrunner_vm.vm.qemu import accelerator
from tests.kvm.inside import SECONDS


def test_doctor_sees_a_guest_run_on_kvm(monkeypatch: pytest.MonkeyPatch) -> None:
    # An emulated processor that others need as well is not always done within the probe's seconds.
    monkeypatch.setattr(accelerator, "PROBE_SECONDS", SECONDS)
    told = json.loads(CliRunner().invoke(cli, ["doctor", "--json"]).stdout)
    (found,) = [check for check in told["checks"] if check["name"] == "KVM"]
    assert (found["status"], found["found"]) == ("ok", "a guest ran")
