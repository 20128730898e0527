"""The real agent script on this host, in the shells that it is written for, with a listener of the test's own.

It is never sent a time, a host name, entropy or keys: as root it would set them here.
"""

import shutil
import subprocess  # noqa: TID251 the test talks to a running process
from collections.abc import Iterator
from pathlib import Path

import pytest

from ghrunner_vm.guest.messages import (
    Exited,
    GuestMessage,
    JobFinished,
    JobStarted,
    Log,
    Refused,
    Started,
)
from tests.unit.agent_on_socket import CONFIG, SECONDS, Guest

JOB = "echo '2026-01-01 00:00:00Z: Running job: build'"
RESULT = "echo '2026-01-01 00:00:09Z: Job build completed with result: Succeeded'"


@pytest.fixture(scope="module")
def applets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("applets")
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.fail("busybox is missing: run tools/setup test")
    subprocess.run([busybox, "--install", "-s", str(directory)], check=True, timeout=SECONDS)
    return directory


@pytest.fixture(params=["dash", "ash"])
def guest(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Guest]:
    if request.param == "ash":
        applets: Path = request.getfixturevalue("applets")
        made = Guest([str(applets / "ash")], f"{applets}:$PATH", tmp_path)
    elif dash := shutil.which("dash"):
        made = Guest([dash], "$PATH", tmp_path)
    else:
        pytest.fail("dash is missing: run tools/setup test")
    with made:
        yield made


def log(text: str) -> Log:
    return Log(type="log", stream="runner", text=text)


def ran(guest: Guest, **fields: str) -> list[GuestMessage]:
    """All that is said after `ready`."""
    guest.boot()
    guest.start(**fields)
    return guest.hear_out()


def test_a_job_from_start_to_power_off(guest: Guest) -> None:
    guest.listener(f"echo listening; {JOB}; {RESULT}; echo; exit 100")
    heard = ran(guest)
    assert heard == [
        Started(type="started"),
        log("listening"),
        log("2026-01-01 00:00:00Z: Running job: build"),
        JobStarted(type="job-started", job="build"),
        log("2026-01-01 00:00:09Z: Job build completed with result: Succeeded"),
        JobFinished(type="job-finished", result="Succeeded"),
        Exited(type="exited", code=100),
    ]
    assert guest.is_off


@pytest.mark.parametrize("code", [0, 1, 5, 6, 7, *range(100, 106)])
def test_the_exit_code_of_the_listener_is_told_as_it_is(guest: Guest, code: int) -> None:
    guest.listener(f"echo x >>launches; exit {code}")
    assert ran(guest) == [Started(type="started"), Exited(type="exited", code=code)]
    assert guest.file("launches").read_text() == "x\n"


@pytest.mark.parametrize(("words", "code"), [("is deprecated and cannot receive messages.", 7), ("has a cold.", 1)])
def test_an_old_listener_that_has_no_exit_code_for_being_outdated(guest: Guest, words: str, code: int) -> None:
    guest.listener(f"echo 'An error occurred: Runner version v2.300.0 {words}'; exit 1")
    assert ran(guest)[-1] == Exited(type="exited", code=code)


def test_a_listener_that_dies_of_a_signal(guest: Guest) -> None:
    guest.listener("kill -9 $$")
    assert Exited(type="exited", code=137) in ran(guest)


@pytest.mark.parametrize("code", [2, 3, 4])
def test_a_listener_that_may_do_better_is_launched_again_a_few_times(guest: Guest, code: int) -> None:
    guest.listener(f"echo x >>launches; exit {code}")
    assert ran(guest)[-1] == Exited(type="exited", code=code)
    assert guest.file("launches").read_text() == "x\n" * 4


@pytest.mark.parametrize("code", [2, 3, 4])
def test_a_listener_that_does_better_the_second_time(guest: Guest, code: int) -> None:
    guest.listener(f"if mkdir once 2>/dev/null; then exit {code}; fi; exit 100")
    assert ran(guest)[-1] == Exited(type="exited", code=100)


def test_a_damaged_registration_is_refused(guest: Guest) -> None:
    guest.listener("touch started")
    (refused,) = ran(guest, sha256="0" * 64)
    assert isinstance(refused, Refused)
    assert "damaged" in refused.why
    assert guest.is_off
    assert not guest.file("started").exists()


def test_without_a_listener_the_registration_is_refused(guest: Guest) -> None:
    (refused,) = ran(guest)
    assert isinstance(refused, Refused)
    assert "no runner" in refused.why
    assert guest.is_off


LINES = [
    b"plain",
    b"  spaces before and after  ",
    b'quotes " and \\ backslashes \\n \\u0041 \\',
    b"$HOME `id` $(id) 'x' %s * ? [a] -n ; & | < >",
    b"-n",
    b"-e \\t",
    b"a\tb\rc\x1b[31md\x07\x7fe\x01",
    "grüße √ 日本 🎉".encode(),
    b'"\\\t' * 300,
    bytes(range(0x80, 0x100)),
    b"\xff\xfe half \xc3",
    b"x" * 100_000,
    b'"' * 100_000,
    "日".encode() * 40_000,
    b"ghvm-exit-0 0",
    b'{"type":"exited","code":0}',
]


def as_told(line: bytes) -> str:
    kept = bytes(byte for byte in line[:16384] if byte >= 0x20 and byte != 0x7F)
    return kept.decode(errors="replace")


def test_every_line_is_told_in_valid_json(guest: Guest) -> None:
    guest.file("output").write_bytes(b"\n".join(LINES))
    guest.listener("cat output")
    heard = ran(guest)
    assert [message.text for message in heard if isinstance(message, Log)] == [as_told(line) for line in LINES]
    assert heard[-1] == Exited(type="exited", code=0)


def test_a_nul_byte_breaks_nothing(guest: Guest) -> None:
    guest.file("output").write_bytes(b"a\0b\nnext\n")
    guest.listener("cat output")
    assert log("next") in ran(guest)


def test_what_the_job_leaves_running_does_not_hold_up_the_end(guest: Guest) -> None:
    guest.listener("sleep 1000 & exit 100")
    assert ran(guest)[-1] == Exited(type="exited", code=100)
    assert guest.is_off


def test_the_registration_is_in_no_argument_list(guest: Guest) -> None:
    guest.listener(f'echo "$ACTIONS_RUNNER_INPUT_JITCONFIG" >config; {JOB}; read -r go <gate; exit 100')
    guest.boot()
    guest.start()
    guest.hear_until(JobStarted)
    shown = b"".join(arguments(process) for process in Path("/proc").iterdir() if process.name.isdigit())
    assert b"Runner.Listener" in shown
    assert CONFIG.encode() not in shown
    assert guest.file("config").read_text() == f"{CONFIG}\n"
    guest.file("gate").write_text("go\n")
    assert guest.hear_out()[-1] == Exited(type="exited", code=100)


def arguments(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def test_the_listener_has_the_environment_that_the_host_asked_for(guest: Guest) -> None:
    guest.listener("env")
    heard = ran(guest, env="HTTP_PROXY=http://proxy:3128/?a=b c\n9BAD=1\nBAD-NAME=1\n=1\nEMPTY=\nQUOTED='$HOME'")
    said = {message.text for message in heard if isinstance(message, Log)}
    assert {"HTTP_PROXY=http://proxy:3128/?a=b c", "EMPTY=", "QUOTED='$HOME'"} <= said
    assert {"ACTIONS_RUNNER_RETURN_JOB_RESULT_FOR_HOSTED=1", "RUNNER_ALLOW_RUNASROOT=1"} <= said
    assert not [line for line in said if "BAD" in line]


def test_the_listener_cannot_reach_the_channel(guest: Guest) -> None:
    guest.listener("for n in 3 4 5 6 7 8 9; do [ ! -S /proc/self/fd/$n ] || echo socket $n; done; echo looked")
    assert [message for message in ran(guest) if isinstance(message, Log)] == [log("looked")]


def test_the_host_powers_off_while_a_job_runs(guest: Guest) -> None:
    guest.program("power-off", f"touch {guest.file('is-off')}; echo off >{guest.file('gate')}")
    guest.listener(f"{JOB}; read -r word <gate; exit 143")
    guest.boot()
    guest.start()
    guest.hear_until(JobStarted)
    guest.say(b"nonsense\npower-off\n\n")
    # The stand-in for the guest's init ends the listener, and with it the agent's wait; nothing else could.
    guest.hear_until(Exited)
    assert guest.is_off


def test_the_host_powers_off_before_any_start(guest: Guest) -> None:
    guest.boot()
    guest.say(b"power-off\n\n")
    assert guest.hear() is None
    assert guest.is_off


def test_a_guest_told_to_keep_running_stays_up(guest: Guest) -> None:
    guest.listener("exit 100")
    assert ran(guest, keep_running="1")[-1] == Exited(type="exited", code=100)
    assert not guest.is_off


@pytest.mark.parametrize(
    "words",
    [b"", b"start\n", b"start\njitconfig", b"start\njitconfig !!!\n\n", f"start\nsha256 {'QQ' * 9}\n".encode()],
)
def test_half_a_start_starts_nothing(guest: Guest, words: bytes) -> None:
    guest.listener("touch started")
    guest.boot()
    guest.say(words)
    assert Started(type="started") not in guest.hear_out()  # a decoder may be lenient: then the hash does not fit
    assert guest.is_off
    assert not guest.file("started").exists()


def test_what_comes_before_start_is_ignored(guest: Guest) -> None:
    guest.listener("exit 100")
    guest.boot()
    guest.say(b"\nhello\njitconfig eA==\n\n")
    guest.start(unknown="field")
    assert guest.hear_out()[-1] == Exited(type="exited", code=100)


def test_the_listener_waits_until_the_system_is_up(guest: Guest) -> None:
    root = guest.file("")
    guest.setting(f'sleep() {{ echo >>{root}/slept; [ "$(wc -l <{root}/slept)" -lt 3 ] || touch {root}/booted; }}')
    guest.setting(f"BOOTED={root}/booted")
    guest.listener("wc -l <slept")
    assert [message.text.strip() for message in ran(guest) if isinstance(message, Log)] == ["3"]


def test_the_listener_does_not_wait_for_ever(guest: Guest) -> None:
    root = guest.file("")
    guest.setting(f"sleep() {{ echo >>{root}/slept; }}\nBOOTED={root}/never BOOT_SECONDS=2")
    guest.listener("wc -l <slept")
    assert [message.text.strip() for message in ran(guest) if isinstance(message, Log)] == ["20"]


def test_the_listener_begins_in_the_images_directory(guest: Guest) -> None:
    guest.file("a b").mkdir()
    guest.setting(f"DIRECTORY='{guest.file('a b')}'")
    guest.program("runner/bin/Runner.Listener", "pwd")
    assert log(str(guest.file("a b"))) in ran(guest)
