"""Guests that tell nothing of their job: GitHub is the only witness, and it cannot always be asked."""

import dataclasses

import pytest

from ghrunner_vm.lifecycle import events as ev
from ghrunner_vm.lifecycle.events import Event
from ghrunner_vm.lifecycle.outcome import Outcome
from tests.unit.test_driver import DRAIN, OFF, POLICY, STARTED, TO_IDLE, Played, Script, played

BUSY, IDLE, GONE = ev.GitHubSaysBusy(), ev.GitHubSaysIdle(), ev.GitHubSaysGone()
UNREACHABLE, REFUSED, DELETED = ev.DeregisterFailed(), ev.DeregisterRefused(), ev.Deregistered()
ONLINE: list[tuple[float, Event]] = [(10, ev.ListenerStarted())]
FLOODS_IN_ITS_JOB: list[tuple[float, Event]] = [*TO_IDLE, (40, STARTED), (50, ev.GuestFellSilent())]
FOR_EVER = dataclasses.replace(POLICY, idle=None)


def plain(script: Script, removals: list[Event] = [DELETED], **options: object) -> Played:  # noqa: B006 only read
    """A guest without an agent, launched with its registration."""
    return played(script, launched=ev.Launched(registered=True, silent=True), removals=removals, **options)  # type: ignore[arg-type]  # as in played


@pytest.mark.parametrize(
    ("script", "fires", "outcome"),
    [
        ([], POLICY.boot, Outcome.BOOT_TIMEOUT),
        (ONLINE, 10 + 900, Outcome.IDLE_TIMEOUT),
        ([*ONLINE, (20, ev.VmmSilent())], 20, Outcome.VMM_SILENT),
        ([*ONLINE, (20, GONE)], 20 + POLICY.vanished, Outcome.VANISHED),
    ],
    ids=lambda value: value.label if isinstance(value, Outcome) else "",
)
def test_while_github_cannot_be_asked_it_may_have_a_job(script: Script, fires: float, outcome: Outcome) -> None:
    """Its job may take as long as a job may take; nobody asked for a drain."""
    run = plain(script, [UNREACHABLE])
    assert (run.state.outcome, run.seconds) == (outcome, fires + POLICY.job)


def test_a_job_that_was_there_all_the_time_is_found_and_kept() -> None:
    removals: list[Event] = [*[UNREACHABLE] * 50, REFUSED, ev.Deregistered(gone=True)]
    run = plain([*ONLINE, (4000, GONE), (4001, OFF)], removals)
    assert run.state.outcome is Outcome.JOB_DONE
    assert "power-down" not in run.names


def test_a_person_who_drains_waits_no_longer_than_for_a_drain() -> None:
    run = plain([*ONLINE, (1000, DRAIN)], [UNREACHABLE])
    assert (run.state.outcome, run.seconds) == (Outcome.IDLE_TIMEOUT, 1000 + POLICY.drain)
    run = plain([*ONLINE, (20, DRAIN)], [UNREACHABLE])
    assert (run.state.outcome, run.seconds) == (Outcome.DRAINED_UNCONFIRMED, 20 + POLICY.drain)


def test_a_guest_that_falls_silent_while_it_is_retired_may_have_a_job_as_well() -> None:
    script = [*TO_IDLE, (1000, ev.GuestFellSilent())]
    run = played(script, removals=[UNREACHABLE])
    assert (run.state.outcome, run.seconds) == (Outcome.IDLE_TIMEOUT, 1000 + POLICY.job)


def test_root_in_a_job_cannot_switch_its_timeout_off() -> None:
    """The channel flooded and the listener killed, GitHub soon calls the runner idle."""
    run = played([*FLOODS_IN_ITS_JOB, (51, BUSY), (1000, IDLE)], FOR_EVER, obeys=False)
    assert (run.state.outcome, run.seconds) == (Outcome.JOB_TIMEOUT, 1000 + POLICY.job + POLICY.grace)
    assert run.names[-3:] == ["deregister", "power-down", "kill"]


def test_a_github_that_called_it_busy_by_mistake_costs_no_job_its_time() -> None:
    run = plain([*ONLINE, (20, BUSY), (30, IDLE), (3000, BUSY), (6000, GONE), (6001, OFF)], policy=FOR_EVER)
    assert (run.state.outcome, run.seconds) == (Outcome.JOB_DONE, 6006)


def test_a_guest_that_waits_for_its_first_job_waits_for_ever() -> None:
    run = plain([*ONLINE, (10, IDLE), (1_000_000, DRAIN)], policy=FOR_EVER)
    assert run.state.outcome is Outcome.DRAINED


def test_a_job_too_short_for_a_poll_is_done_though_the_service_is_late_to_say_so() -> None:
    """Deleted at once, the registration would look like one that never had a job."""
    run = plain([*ONLINE, (20, OFF), (21, IDLE)], [ev.Deregistered(gone=True)])
    assert (run.state.outcome, run.seconds, run.names) == (Outcome.JOB_DONE, 25, ["look", "deregister"])


def test_one_that_github_has_forgotten_is_not_waited_for() -> None:
    run = plain([*ONLINE, (20, OFF), (20.5, GONE), (20.6, GONE)], [ev.Deregistered(gone=True)])
    assert (run.state.outcome, run.seconds, run.names) == (Outcome.JOB_DONE, 20.5, ["look", "deregister"])


def test_a_job_that_was_over_before_the_first_look_is_no_failed_boot() -> None:
    run = plain([(30, GONE)], [ev.Deregistered(gone=True)])
    assert (run.state.outcome, run.seconds) == (Outcome.VANISHED, 30 + POLICY.vanished)
    run = plain([(30, GONE), (40, OFF)], [ev.Deregistered(gone=True)])
    assert run.state.outcome is Outcome.JOB_DONE


def test_one_poll_that_came_too_early_leaves_the_boot_timeout_alone() -> None:
    run = plain([(1, GONE), (60, IDLE)])
    assert (run.state.outcome, run.seconds) == (Outcome.BOOT_TIMEOUT, POLICY.boot)


@pytest.mark.parametrize(
    ("script", "removal", "outcome"),
    [
        ([*ONLINE, (20, OFF)], UNREACHABLE, Outcome.JOB_UNCONFIRMED),
        ([*ONLINE, (20, BUSY), (30, OFF)], UNREACHABLE, Outcome.JOB_UNCONFIRMED),
        ([*ONLINE, (20, BUSY), (25, DRAIN), (30, OFF)], UNREACHABLE, Outcome.JOB_UNCONFIRMED),
        ([*ONLINE, (20, OFF)], REFUSED, Outcome.JOB_LOST),
        ([*ONLINE, (20, BUSY), (30, OFF)], REFUSED, Outcome.JOB_LOST),
        ([*ONLINE, (20, OFF)], DELETED, Outcome.GUEST_LEFT),
        ([(20, OFF)], DELETED, Outcome.BOOT_FAILED),
        ([*ONLINE, (20, BUSY), (30, OFF)], DELETED, Outcome.JOB_DONE),
        ([*ONLINE, (20, DRAIN), (30, OFF)], UNREACHABLE, Outcome.DRAINED_UNCONFIRMED),
    ],
)
def test_what_became_of_a_machine_that_is_off(script: Script, removal: Event, outcome: Outcome) -> None:
    assert plain(script, [removal]).state.outcome is outcome
