"""What an operator does around a run: look, read, enter, stop, and find out why. Real machines, real processes."""

import json
import os
import re
import signal
import socket

from tests import guests
from tests.harness import WAIT_SECONDS
from tests.lab import Lab

ID = re.compile(r"t[0-9a-f]{8}-[0-9a-f]{8}")
NUMBER = re.compile(r"-?\b\d+(\.\d+)?\b")
COMMIT = re.compile(r"\b[0-9a-f]{12,40}\b")
STAMP = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")


def shape(text: str) -> str:
    """The text with what differs from run to run as letters, and runs of blanks as one."""
    for pattern, letter in ((ID, "RUN"), (STAMP, "TIME"), (COMMIT, "COMMIT"), (NUMBER, "N")):
        text = pattern.sub(letter, text)
    return "\n".join(re.sub(r" +", " ", line).strip() for line in text.splitlines())


PS = """\
RUN PHASE SINCE JOB IMAGE CPU MEMORY DISK REFUSED SSH
RUN busy N s build ghvm-demo COMMIT N of N N MiB of N MiB N KiB of N GiB - -"""
EVENTS = ["Launched", "AgentReady", "Minted", "ListenerStarted", "GuestJobStarted"]
HISTORY = """\
RUN ENDED TOOK WHY OUTCOME JOB CPU MEMORY DISK
RUN TIME N s job done job-done build Failed N s N MiB N KiB"""
WHY = """\
RUN: job done: the job finished (Failed)

image ghvm-demo COMMIT
job build: Failed
began TIME
N s preparing
N s booting
N s ready
N s idle
N s busy
N s done
ended TIME
took N s of processor time (cores: N), N MiB of memory for a ram of N MiB, N KiB of a root-disk of N GiB"""


def test_a_run_is_looked_at_stopped_and_explained(lab: Lab) -> None:
    """A drain waits for the job. What is told afterwards is what was seen before."""
    with lab.gate() as gate, lab.run() as run:
        lab.job(f"echo from the job; {gate.command}; exit 3", name="build")
        gate.wait_reached()
        seen = lab.ghvm("ps")
        assert (shape(seen.stdout), seen.stderr) == (PS, "")
        live = json.loads(lab.ghvm("ps", "--json").stdout)["runs"]
        assert [(one["phase"], one["job"], one["pid"]) for one in live] == [("busy", "build", run.pid)]
        assert min(live[0]["memory"], live[0]["cpu-seconds"], live[0]["disk"]) > 0
        assert "it lives, and is busy for" in lab.ghvm("why").stdout
        assert "Running job: build" in lab.ghvm("logs", "--runner").stdout
        assert [line.split()[4] for line in lab.ghvm("logs", "--events").stdout.splitlines()] == EVENTS

        too_short = lab.ghvm("stop", "--all", "--timeout", "0.1")
        assert too_short.returncode == 4
        assert "has not ended in time" in too_short.stderr
        run.wait("drain")
        gate.open()
        stopped = lab.ghvm("stop", "--all")
        assert run.wait_exit() == 0
    # The second stop may find it ended already.
    assert (stopped.returncode, shape(stopped.stdout)) in [(0, "RUN: job-done (Failed)"), (0, "")]
    assert shape(lab.ghvm("ps").stdout) == ""
    assert shape(lab.ghvm("history").stdout) == HISTORY
    assert shape(lab.ghvm("why").stdout) == WHY
    (ended,) = json.loads(lab.ghvm("history", "--json").stdout)["runs"]
    assert (ended["id"], ended["reason"], ended["outcome"]) == (live[0]["id"], "job done", "job-done")
    # The kernel counts memory in batches, so its peak may be a little less than what it told a moment ago.
    assert ended["peak-memory"] >= live[0]["memory"] * 0.98
    assert "completed with result: Failed" in lab.ghvm("logs", "--runner").stdout


def test_a_live_view_is_redrawn_until_ctrl_c(lab: Lab) -> None:
    with lab.on_a_terminal("ps", "--watch", "--interval", "0.1") as view:
        assert "no runs" in view.until("no runs")
        with lab.gate() as gate, lab.run() as run:
            lab.job(gate.command, name="build")
            view.until("preparing")
            drawn = view.until("busy")
            assert "\x1b[1A" in drawn, "each view stands where the last one was"
            gate.wait_reached()
            with lab.on_a_terminal("stop", "--all") as stopping:
                assert "busy build" in stopping.until("busy build")
                gate.open()
                assert "job-done (Succeeded)" in stopping.until("job-done (Succeeded)")
                assert stopping.wait() == 0
            assert run.wait_exit() == 0
        view.until("no runs")
        view.type("\x03")
        assert view.wait() == 0


def test_logs_follow_a_run_to_its_end(lab: Lab) -> None:
    with lab.gate() as gate, lab.run() as run:
        lab.job(f"echo from the job; {gate.command}", name="build")
        gate.wait_reached()
        with lab.start("logs", "-f", "--runner") as following:
            assert "Running job: build" in following.until("Running job: build")
            gate.open()
            rest = following.until("completed with result: Succeeded")
            assert run.wait_exit() == 0
            assert following.wait() == 0
        assert "Job build completed with result: Succeeded" in rest


def test_entering_a_guest(lab: Lab) -> None:
    """The port is opened on demand, the host key is the agent's, and the exit code is the command's."""
    with lab.gate() as gate, lab.run(image=guests.SSH) as run:
        lab.job(gate.command)
        gate.wait_reached()
        said = lab.ghvm("ssh", "--user", "root", "--", "hostname; exit 7")
        assert (said.stdout.strip(), said.returncode) == (run.wait("registered").facts["runner"], 7)
        (seen,) = json.loads(lab.ghvm("ps", "--json").stdout)["runs"]
        assert seen["ssh-port"] is not None
        again = lab.ghvm("ssh", seen["id"][:12], "--user", "root", "--", "echo again")
        assert again.stdout == "again\n"

        known = lab.runs[0] / "known_hosts"
        record = json.loads((lab.runs[0] / "run.json").read_text())
        assert known.read_text() == f"{seen['id']} {record['ssh-host-key']}\n"
        gate.open()
        run.send(signal.SIGTERM)
        assert run.wait_exit() == 0
    assert not [path for path in (lab.state / "history").rglob("*") if "ssh" in path.name], "the key goes with the run"


def test_a_guest_without_ssh(lab: Lab) -> None:
    with lab.gate() as gate, lab.run() as run:
        lab.job(gate.command)
        gate.wait_reached()
        untold = lab.ghvm("ssh", "--", "true")
        assert untold.returncode == 2
        assert "has told no SSH host key" in untold.stderr
        dead = lab.ghvm("ssh", "--user", "root", "--", "true")
        assert dead.returncode == 255
        assert "the first one it shows is accepted" in dead.stderr
        assert "does its image run sshd?" in dead.stderr
        gate.open()
        assert run.wait_exit() == 0


def test_stopping_now_and_by_force(lab: Lab) -> None:
    with lab.gate() as gate, lab.run() as run:
        lab.job(gate.command)
        gate.wait_reached()
        stopped = lab.ghvm("stop", "--now", "--all", "--json")
        assert (stopped.returncode, run.wait_exit()) == (0, 130)
        assert [one["outcome"] for one in json.loads(stopped.stdout)["runs"]] == ["interrupted"]
    assert "interrupted" in lab.ghvm("why").stdout
    lab.let_go_and_collect()


def test_a_run_that_hangs_is_ended_by_force_and_explained(lab: Lab) -> None:
    """It answers nobody; what is left of it is found out about, and gc moves it to the history."""
    with lab.gate() as gate, lab.run() as run:
        lab.job(gate.command)
        gate.wait_reached()
        run.send(signal.SIGSTOP)
        deaf = lab.ghvm("stop", "--all")
        assert deaf.returncode == 4
        assert "ghvm stop --force" in deaf.stderr
        forced = lab.ghvm("stop", "--all", "--force")
        assert (forced.returncode, shape(forced.stdout)) == (0, "RUN: killed")
        assert run.wait_exit() == -signal.SIGKILL
    assert "ghvm itself was killed while the run was busy" in lab.ghvm("why").stdout
    assert "not cleared up" in lab.ghvm("history").stdout
    assert "see `ghvm gc`" in lab.ghvm("ps").stderr
    lab.let_go_and_collect()
    (ended,) = json.loads(lab.ghvm("history", "--json").stdout)["runs"]
    assert (ended["stage"], ended["reason"], ended["outcome"]) == ("ended", "killed", None)


def test_why_a_machine_did_not_come_up(lab: Lab) -> None:
    with lab.run(image=guests.PANICKING) as run:
        assert run.wait_exit() == 3
    told = lab.ghvm("why").stdout
    assert ": boot failure: the virtual machine ended before it could take a job" in told
    assert "│" in told
    assert "Kernel panic - not syncing" in told
    assert "Kernel panic - not syncing" in lab.ghvm("logs").stdout


def test_why_a_run_could_not_even_begin(lab: Lab) -> None:
    with lab.run("--images-server", "http://127.0.0.1:1", "--images-cache-dir", str(lab.directory / "none")) as run:
        assert run.wait_exit() == 4
    (ended,) = json.loads(lab.ghvm("history", "--json").stdout)["runs"]
    assert ended["reason"] == "network"
    assert ended["words"] in (line.message for line in run.lines)


def test_a_name_that_no_run_has(lab: Lab) -> None:
    done = lab.ghvm("logs", "demo-0001")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: there is no run demo-0001\n→ See `ghvm ps` and `ghvm history` for the names.\n"
    assert lab.ghvm("why").stderr == ("error: there is no run on this host\n→ See `ghvm history` for what has been.\n")
    assert lab.ghvm("stop").returncode == 2


def test_a_service_manager_hears_how_a_run_goes(lab: Lab) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(WAIT_SECONDS)
        manager.bind(str(lab.directory / "notify"))
        lab.job("echo hello")
        told = {"NOTIFY_SOCKET": str(lab.directory / "notify"), "WATCHDOG_USEC": "400000"}
        with lab.run("--metrics-textfile", str(lab.directory / "ghvm.prom"), env=told) as run:
            heard = [manager.recv(4096).decode()]
            while not heard[-1].startswith("STOPPING=1"):
                heard.append(manager.recv(4096).decode())
            assert run.wait_exit() == 0
    assert [one.split("\n")[0] for one in heard if one.startswith("READY")] == ["READY=1"]
    assert {"STATUS=the guest boots", "STATUS=job started", "STATUS=listening for a job", "WATCHDOG=1"} <= set(heard)
    assert heard[-1] == "STOPPING=1\nSTATUS=the job finished"
    measured = (lab.directory / "ghvm.prom").read_text()
    assert f'ghvm_run_outcome{{label="{lab.label}",outcome="job-done"}} 1\n' in measured
    assert "ghvm_github_requests_remaining" in measured


FAILURES = r'failed_runs\{label="\w+"\} (\d+)'
OUTCOME = r'run_outcome\{label="\w+",outcome="(.*)"\} 1'


def measured(lab: Lab, sample: str) -> str:
    found = re.search(rf"^ghvm_{sample}$", (lab.directory / "ghvm.prom").read_text(), re.MULTILINE)
    assert found, sample
    return found[1]


def test_a_service_waits_after_failed_starts_and_a_drain_ends_the_wait(lab: Lab) -> None:
    """Nothing is kept of the failed runs, and the second one fails before it is one."""
    nowhere = ("--images-server", "http://127.0.0.1:1", "--images-cache-dir", str(lab.directory / "none"))
    service = ("--back-off", *nowhere, "--metrics-textfile", str(lab.directory / "ghvm.prom"))
    forgetful = {"GHVM_HISTORY_RUNS": "0"}
    with lab.run(*service, env=forgetful) as run:
        assert run.wait_exit() == 4
    assert (measured(lab, FAILURES), measured(lab, OUTCOME)) == ("1", "failed")
    broken = lab.directory / "bin/qemu-system-x86_64"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    with lab.run(*service, env={**forgetful, "PATH": f"{broken.parent}:{os.environ['PATH']}"}) as run:
        assert run.wait_exit() == 4
    assert "run" not in run.steps
    assert (measured(lab, FAILURES), measured(lab, OUTCOME)) == ("2", "failed")
    with lab.run(*service, env=forgetful) as run:
        assert run.wait("pause").message.startswith("the last starts failed: this one waits")
        run.send(signal.SIGTERM)
        assert run.wait_exit() == 0
    assert measured(lab, FAILURES) == "0"


def test_why_a_job_failed_that_took_all_memory(lab: Lab) -> None:
    """The guest's kernel says so on the console."""
    with lab.run() as run:
        lab.job("tail /dev/zero", name="greedy")
        assert run.wait_exit() == 0
    told = lab.ghvm("why").stdout
    assert ": out of memory: the job finished (Failed); the guest ran out of memory\n" in told
    assert re.search(r"^  │ \[ *[\d.]+\] Out of memory: Killed process \d+ \(tail\)", told, re.MULTILINE)
    assert '"ram" in the spec' in told
