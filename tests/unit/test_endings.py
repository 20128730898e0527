"""How a run ends by what its guest does and claims: outcome, exit code, and words that help."""

import pytest

from ghrunner_vm.errors import ExitCode
from ghrunner_vm.lifecycle import events as ev
from ghrunner_vm.lifecycle.events import Event, Timer
from ghrunner_vm.lifecycle.machine import step
from ghrunner_vm.lifecycle.outcome import Outcome
from ghrunner_vm.lifecycle.state import Phase, Policy, State
from ghrunner_vm.lifecycle.teller import Teller
from ghrunner_vm.vm.base import EndReason, VmEnd
from tests.unit.test_driver import EXITED, FINISHED, OFF, POLICY, STARTED, TO_IDLE, Script, played

PANIC = ev.VmEnded(VmEnd(EndReason.PANICKED))
RESET = ev.VmEnded(VmEnd(EndReason.RESET))
SILENT = ev.GuestFellSilent()
BUSY, IDLE, GONE = ev.GitHubSaysBusy(), ev.GitHubSaysIdle(), ev.GitHubSaysGone()

# What the runner's listener exits with (ReturnCode in its sources): how the run ends without a job, and in one.
CODES = {
    0: (Outcome.NO_JOB, Outcome.JOB_DONE),
    1: (Outcome.LISTENER_FAILED, Outcome.JOB_LOST),
    2: (Outcome.LISTENER_FAILED, Outcome.JOB_LOST),
    3: (Outcome.LISTENER_FAILED, Outcome.JOB_LOST),
    4: (Outcome.LISTENER_FAILED, Outcome.JOB_LOST),
    5: (Outcome.LISTENER_FAILED, Outcome.JOB_LOST),
    6: (Outcome.LISTENER_FAILED, Outcome.JOB_LOST),
    7: (Outcome.OUTDATED, Outcome.JOB_LOST),
    **{100 + result: (Outcome.JOB_DONE, Outcome.JOB_DONE) for result in range(6)},
    137: (Outcome.LISTENER_FAILED, Outcome.JOB_LOST),
}


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("end", [[OFF], []], ids=["powers off", "stays on"])
def test_what_a_listener_exits_with(code: int, end: list[Event]) -> None:
    script = [(at, event) for at, event in zip((50, 51), [ev.ListenerExited(code), *end], strict=False)]
    run = played([*TO_IDLE, *script])
    assert run.state.outcome is CODES[code][0]
    run = played([*TO_IDLE, (40, STARTED), *script])
    assert run.state.outcome is CODES[code][1]
    run = played([*TO_IDLE, (40, STARTED), (45, FINISHED), *script])
    assert run.state.outcome is Outcome.JOB_DONE


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (Outcome.NO_JOB, ExitCode.OK),
        (Outcome.JOB_DONE, ExitCode.OK),
        (Outcome.LISTENER_FAILED, ExitCode.ERROR),
        (Outcome.JOB_LOST, ExitCode.ERROR),
        (Outcome.OUTDATED, ExitCode.PERMANENT),
    ],
)
def test_exit_codes(outcome: Outcome, code: ExitCode) -> None:
    assert outcome.exit_code is code


def test_a_job_cannot_make_its_host_believe_that_the_runner_is_outdated() -> None:
    """It would keep the host from starting another run: exit code 5 is for a person to mend."""
    run = played([*TO_IDLE, (40, BUSY), (50, ev.ListenerExited(7)), (51, OFF)])
    assert run.state.outcome is Outcome.LISTENER_FAILED


@pytest.mark.parametrize("claim", [STARTED, FINISHED, ev.ListenerExited(100), ev.AgentReady(), ev.ListenerStarted()])
def test_after_the_exit_of_its_listener_no_claim_counts(claim: Event) -> None:
    run = played([*TO_IDLE, (50, ev.ListenerExited(1)), (51, claim), (52, OFF)])
    assert run.state.outcome is Outcome.LISTENER_FAILED


def test_a_guest_that_is_ready_too_late_is_not_registered() -> None:
    run = played([(300, ev.Fired(Timer.BOOT)), (300, ev.AgentReady()), (301, ev.AgentReady())], Policy(boot=301, job=1))
    assert (run.state.outcome, run.names) == (Outcome.BOOT_TIMEOUT, ["kill"])


# Second 59 is before the boot timer, the job timer would be at 3640: these are the guest's own doing.
ENDS: list[tuple[str, Script, Event, Outcome]] = [
    ("panics at boot", [], PANIC, Outcome.BOOT_FAILED),
    ("panics before its listener", [(1, ev.AgentReady())], PANIC, Outcome.BOOT_FAILED),
    ("panics while idle", TO_IDLE, PANIC, Outcome.PANICKED),
    ("panics in its job", [*TO_IDLE, (40, STARTED)], PANIC, Outcome.PANICKED),
    ("panics after its job", [*TO_IDLE, (40, STARTED), (50, FINISHED)], PANIC, Outcome.JOB_DONE),
    ("restarts at boot", [], RESET, Outcome.BOOT_FAILED),
    ("restarts while idle", TO_IDLE, RESET, Outcome.GUEST_LEFT),
    ("restarts in its job", [*TO_IDLE, (40, STARTED)], RESET, Outcome.JOB_LOST),
    ("restarts in a job that only GitHub tells of", [*TO_IDLE, (40, BUSY)], RESET, Outcome.JOB_LOST),
    ("restarts after its job", [*TO_IDLE, (40, STARTED), (50, FINISHED)], RESET, Outcome.JOB_DONE),
    ("refuses", [(1, ev.AgentReady()), (2, ev.GuestRefused("no"))], OFF, Outcome.REFUSED),
    ("refuses too late", [*TO_IDLE, (40, ev.GuestRefused("no"))], OFF, Outcome.GUEST_LEFT),
    ("refuses too early", [(1, ev.GuestRefused("no"))], OFF, Outcome.BOOT_FAILED),
    ("exits too early", [(1, EXITED), (2, FINISHED), (3, STARTED)], OFF, Outcome.BOOT_FAILED),
    ("finishes before it starts", [*TO_IDLE, (40, FINISHED), (41, STARTED)], OFF, Outcome.JOB_DONE),
    ("boots anew in its job", [*TO_IDLE, (40, STARTED), (50, ev.AgentReady())], OFF, Outcome.JOB_LOST),
]


@pytest.mark.parametrize(("script", "end", "outcome"), [one[1:] for one in ENDS], ids=[one[0] for one in ENDS])
def test_a_guest_that(script: Script, end: Event, outcome: Outcome) -> None:
    run = played([*script, (59, end)])
    assert run.state.outcome is outcome
    assert run.seconds <= 59
    assert run.names.count("mint") <= 1


def test_a_second_ready_gets_no_second_registration() -> None:
    again = [(at, ev.AgentReady()) for at in range(2, 60)]
    run = played([*TO_IDLE, *again, (40, STARTED), (60, FINISHED), (61, OFF)])
    assert (run.state.outcome, run.names.count("mint"), run.names.count("start")) == (Outcome.JOB_DONE, 1, 1)


SETTLED = ev.Deregistered(gone=True)
FLOODS_IN_ITS_JOB: list[tuple[float, Event]] = [*TO_IDLE, (40, STARTED), (50, SILENT)]


def test_a_guest_that_lost_its_channel_is_ended_as_github_tells() -> None:
    run = played([*FLOODS_IN_ITS_JOB, (51, BUSY), (3000, OFF), (3001, GONE)], removals=[SETTLED])
    assert (run.state.outcome, run.seconds) == (Outcome.JOB_DONE, 3001)
    assert run.names == ["mint", "start", "look", "look", "deregister"]


def test_its_job_is_done_though_the_service_is_late_to_say_so() -> None:
    """Deleted at once, its registration would look like one that never had a job."""
    run = played([*FLOODS_IN_ITS_JOB, (3000, OFF), (3001, IDLE)], removals=[SETTLED])
    assert (run.state.outcome, run.seconds) == (Outcome.JOB_DONE, 3005)


def test_its_end_is_unconfirmed_if_github_cannot_be_asked() -> None:
    run = played([*FLOODS_IN_ITS_JOB, (51, BUSY), (3000, OFF)], removals=[ev.DeregisterFailed()])
    assert (run.state.outcome, run.seconds) == (Outcome.JOB_UNCONFIRMED, 3060)


def test_its_job_is_lost_if_github_says_so_for_a_minute() -> None:
    run = played([*FLOODS_IN_ITS_JOB, (51, BUSY), (3000, OFF)], removals=[ev.DeregisterRefused()])
    assert (run.state.outcome, run.seconds) == (Outcome.JOB_LOST, 3060)


def test_its_job_is_not_waited_for_once_github_has_forgotten_it() -> None:
    run = played([*FLOODS_IN_ITS_JOB, (51, BUSY), (1000, GONE)], removals=[SETTLED])
    assert (run.state.outcome, run.seconds) == (Outcome.JOB_DONE, 1000 + POLICY.vanished)


def test_its_job_is_ended_at_its_timeout_all_the_same() -> None:
    run = played(FLOODS_IN_ITS_JOB, obeys=False)
    assert run.state.outcome is Outcome.JOB_TIMEOUT
    assert run.calls[-2:] == [(3640, "power-down"), (3700, "kill")]


def test_a_guest_that_lost_its_channel_before_it_was_ready_meets_the_boot_timeout() -> None:
    run = played([(1, SILENT)])
    assert (run.state.outcome, run.seconds) == (Outcome.BOOT_TIMEOUT, 300)


CLAIMS: list[tuple[float, Event]] = [(40, STARTED), (50, BUSY), (60, FINISHED), (61, EXITED)]


def test_a_job_that_only_the_guest_calls_done_is_lost() -> None:
    """Root in the job can say what it likes, but a run does not end well while GitHub waits for the job."""
    run = played([*TO_IDLE, *CLAIMS, (62, OFF)], removals=[ev.DeregisterRefused()])
    assert (run.state.outcome, run.seconds) == (Outcome.JOB_LOST, 122)


def test_a_job_that_github_takes_a_moment_to_call_done_is_done() -> None:
    run = played([*TO_IDLE, *CLAIMS, (62, OFF)], removals=[ev.DeregisterRefused(), SETTLED])
    assert (run.state.outcome, run.seconds) == (Outcome.JOB_DONE, 69)


def test_a_job_that_github_cannot_be_asked_about_is_what_the_guest_says() -> None:
    run = played([*TO_IDLE, *CLAIMS, (62, OFF)], removals=[ev.DeregisterFailed()])
    assert (run.state.outcome, run.seconds) == (Outcome.JOB_DONE, 122)


def cause(*events: Event) -> str | None:
    """What a run tells of its end."""
    teller, state = Teller("run-1", lambda *_, **__: None), State()
    for event in (ev.Launched(), ev.AgentReady(), ev.Minted(), *events):
        before = state
        state, _ = step(before, event, POLICY)
        teller.observe(before, event, state)
    assert state.phase in (Phase.DONE, Phase.POWERING_OFF)
    return teller.cause


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ([ev.GuestRefused("its sha256 is not the one announced")], "its sha256 is not the one announced"),
        ([ev.ListenerStarted(), ev.ListenerExited(137), OFF], "exited with code 137"),
        ([ev.ListenerStarted(), ev.ListenerExited(1), RESET], "exited with code 1."),
        ([RESET], "reset by the guest"),
        ([ev.VmEnded(VmEnd(EndReason.CRASHED, "signal 9"))], "signal 9"),
    ],
)
def test_what_a_guest_did_is_told(events: list[Event], words: str) -> None:
    assert words in (cause(*events) or "")


@pytest.mark.parametrize(
    "events",
    [
        [ev.ListenerStarted(), STARTED, FINISHED, EXITED, OFF],
        [ev.ListenerStarted(), ev.ListenerExited(0), OFF],
        [ev.ListenerStarted(), ev.Interrupt(), ev.Interrupt(), ev.VmEnded(VmEnd(EndReason.KILLED))],
        [ev.ListenerStarted(), ev.GuestRefused("too late"), OFF],
    ],
)
def test_what_goes_without_saying_is_not(events: list[Event]) -> None:
    assert cause(*events) is None


def test_whatever_goes_wrong_comes_with_advice() -> None:
    """What GitHub refuses brings its own; an interrupt needs none."""
    without = {Outcome.MINT_FAILED, Outcome.MINT_REFUSED, Outcome.INTERRUPTED}
    failures = {outcome for outcome in Outcome if outcome.exit_code != ExitCode.OK}
    assert {outcome for outcome in failures if not outcome.advice} == without
