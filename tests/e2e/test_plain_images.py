"""Images without an agent: full guests that boot by themselves and get their registration as systemd credentials."""

import signal
from contextlib import AbstractContextManager

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from ghrunner_vm.errors import ExitCode
from ghrunner_vm.simulator import jitconfig
from ghrunner_vm.simulator.model import Runner
from tests.e2e import debian
from tests.harness import GhvmRun
from tests.lab import Lab

pytestmark = pytest.mark.timeout(600)  # the guests may have to be made first

_BOOT_SECONDS = 180
_REAL_CONFIG_BYTES = 4140
"""The length of a registration as GitHub makes it: more than systemd before 257 would read from SMBIOS."""
_LONG_NAME = "a-name-that-makes-the-config-a-long-one"
_FETCH = "fetch() { curl --silent --output /dev/null --write-out '%{http_code}\\n' \"$1\"; }"
_URL = "url=$(cat $CREDENTIALS_DIRECTORY/gha-jitconfig-url)"


def test_a_registration_in_the_machine_from_the_start_arrives_whole(debian_lab: Lab) -> None:
    job = debian_lab.job("id -un; wc -c <$CREDENTIALS_DIRECTORY/gha-jitconfig; ls $CREDENTIALS_DIRECTORY")
    prefix = f"{debian_lab.label}-{_LONG_NAME}"[:40]
    with _run(debian_lab, "--name", prefix, image=debian.DIRECT, credential="direct") as run:
        run.wait("launched")
        (runner,) = debian_lab.runners
        assert run.wait_exit(_BOOT_SECONDS) == ExitCode.OK
    size = _config_bytes(runner, debian_lab.sim.port)
    assert size >= _REAL_CONFIG_BYTES
    assert debian_lab.finished(job).log == ["runner", str(size), "gha-jitconfig"]
    assert (run.outcome, debian_lab.finished(job).conclusion) == ("job-done", "success")


def test_a_registration_is_made_when_the_guest_fetches_it_and_fetched_once(debian_lab: Lab) -> None:
    with debian_lab.gate() as gate, _run(debian_lab, image=debian.URL, credential="url") as run:
        job = debian_lab.job(f'{_FETCH}\n{_URL}\nfetch "$url"\nfetch "${{url%/*}}/wrong"\n{gate.command}\nfetch "$url"')
        run.wait("launched")
        assert debian_lab.runners == []
        run.wait("registered", _BOOT_SECONDS)
        debian_lab.break_github()  # for now ghvm cannot see that the runner comes online
        gate.wait_reached()
        debian_lab.sim.faults.clear()
        run.wait("busy")
        gate.open()
        assert run.wait_exit(_BOOT_SECONDS) == ExitCode.OK
    assert debian_lab.finished(job).log == ["400", "403", "410"]
    told = ["the registration was fetched before", "the token is wrong", "the runner is online already"]
    assert _refusals(run) == told
    order = ["launched", "ready", "registered", "busy"]
    assert [step for step in run.steps if step in order] == order
    assert run.outcome == "job-done"


def test_a_machine_that_is_asked_to_stay_up_ends_with_a_drain(debian_lab: Lab) -> None:
    with debian_lab.gate() as gate, _run(debian_lab, "--no-shutdown-after-job", image=debian.DIRECT) as run:
        # Left behind by the job, and heard of only if the machine lives on after the end of the runner's unit.
        later = f"while systemctl is-active --quiet runner-direct; do sleep 1; done; sleep 3; {gate.command}"
        job = debian_lab.job(f'setsid sh -c "{later}" >/dev/null 2>&1 &\nls $CREDENTIALS_DIRECTORY')
        gate.wait_reached(_BOOT_SECONDS)
        assert "ended" not in run.steps
        run.send(signal.SIGTERM)
        assert run.wait_exit() == ExitCode.OK
    assert debian_lab.finished(job).log == ["gha-inhibit-shutdown", "gha-jitconfig", "gha-jitconfig-url"]
    assert "powering-off" in run.steps
    assert run.outcome == "drained"


def _run(lab: Lab, *flags: str, image: str, credential: str = "both") -> AbstractContextManager[GhvmRun]:
    """A run with what a full guest needs under emulation."""
    return lab.run(
        *("--poll-seconds", "1", *flags),
        image=image,
        credential=credential,
        ram="512M",
        root_disk="2G",
        boot_timeout_seconds=_BOOT_SECONDS,
    )


def _refusals(run: GhvmRun) -> list[str]:
    return [line.message.rpartition(": ")[2] for line in run.lines if line.step == "fetch-refused"]


def _config_bytes(runner: Runner, port: int) -> int:
    """The length of the configuration that the simulator made for this runner, whatever its key."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return len(jitconfig.encode(runner, f"http://10.0.2.2:{port}/_service", "_work", key))
