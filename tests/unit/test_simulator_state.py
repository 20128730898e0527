"""Which job goes to which runner, and how a registration ends. One RSA key is made for all tests: it is slow."""

import pytest

from ghrunner_vm.clock import Clock
from ghrunner_vm.simulator.faults import Faults, Rule
from ghrunner_vm.simulator.model import NameTaken, NotFound, Registration, Runner, Scope, StillBusy
from ghrunner_vm.simulator.state import State

ORG = Scope("orgs", "demo-org")
VERSION = "2.337.0"


@pytest.fixture(scope="module")
def shared() -> State:
    return State(Clock(wall=lambda: 0.0), "demo-org", "http://127.0.0.1:1/_service")


@pytest.fixture
def state(shared: State) -> State:
    for runner in shared.runners():
        shared.drop(runner.id)
    for job in shared.jobs():
        if job.status == "queued":
            idle(shared, "sink", *job.labels)
            shared.drop(shared.job(job.id).runner_id or 0)
    return shared


def idle(state: State, name: str, *labels: str) -> Runner:
    runner, _ = state.register(ORG, Registration(name, 1, labels))
    return state.open_session(runner.bearer, VERSION)


def test_a_job_goes_to_an_idle_runner_with_all_labels(state: State) -> None:
    idle(state, "little", "linux")
    able = idle(state, "able", "Linux", "BIG", "extra")
    job = state.enqueue(["linux", "big"], "true")
    assert job.runner_name == "able"
    assert state.runner(able.id).busy


def test_an_offline_runner_gets_nothing_until_it_is_online(state: State) -> None:
    runner, _ = state.register(ORG, Registration("late", 1, ("a",)))
    job = state.enqueue(["a"], "true")
    assert job.runner_id is None
    state.open_session(runner.bearer, VERSION)
    assert state.job(job.id).runner_id == runner.id


def test_jobs_wait_in_order(state: State) -> None:
    first, second = state.enqueue(["a"], "1"), state.enqueue(["a"], "2")
    idle(state, "one", "a")
    assert (state.job(first.id).runner_name, state.job(second.id).runner_name) == ("one", None)


def test_an_outdated_runner_gets_no_job(state: State) -> None:
    runner, _ = state.register(ORG, Registration("old", 1, ("a",)))
    state.open_session(runner.bearer, "2.99.9")
    assert state.enqueue(["a"], "true").runner_id is None
    assert state.next_message(runner.bearer, 0).type == "too-old"


def test_the_end_of_a_job_ends_the_registration(state: State) -> None:
    runner = idle(state, "one", "a")
    job = state.enqueue(["a"], "true")
    assert state.next_message(runner.bearer, 0).job == state.job(job.id)
    state.accept(runner.bearer, job.id)
    with pytest.raises(StillBusy):
        state.remove(ORG, runner.id)
    state.append_log(runner.bearer, job.id, "hello")
    state.complete(runner.bearer, job.id, "success")
    assert (state.job(job.id).conclusion, state.job(job.id).log) == ("success", ["hello"])
    assert state.next_message(runner.bearer, 0).type == "gone"
    with pytest.raises(NotFound):
        state.runner(runner.id)


def test_a_broken_session_leaves_the_runner_busy(state: State) -> None:
    runner = idle(state, "one", "a")
    state.enqueue(["a"], "true")
    state.disconnect(runner.id)
    assert (state.runner(runner.id).online, state.runner(runner.id).busy) == (False, True)


def test_another_runner_cannot_touch_a_job(state: State) -> None:
    idle(state, "one", "a")
    job = state.enqueue(["a"], "true")
    other = idle(state, "other", "b")
    with pytest.raises(NotFound):
        state.complete(other.bearer, job.id, "success")


def test_names_are_taken_within_a_scope(state: State) -> None:
    idle(state, "one", "a")
    with pytest.raises(NameTaken):
        idle(state, "ONE", "a")
    state.register(Scope("repos", "demo-org/x"), Registration("one", 1, ("a",)))


def test_scopes_do_not_differ_by_case(state: State) -> None:
    runner = idle(state, "one", "a")
    assert state.runner(runner.id, Scope("orgs", "Demo-ORG")) == runner
    with pytest.raises(NotFound):
        state.runner(runner.id, Scope("repos", "demo-org/x"))


def test_assign_takes_a_waiting_job_only(state: State) -> None:
    idle(state, "one", "a")
    job = state.enqueue(["a"], "true")
    free = idle(state, "free", "b")
    with pytest.raises(ValueError, match="not waiting"):
        state.assign(job.id, free.id)


def test_waiting_has_a_deadline(state: State) -> None:
    job = state.enqueue(["nobody"], "true")
    with pytest.raises(TimeoutError):
        state.wait_job(job.id, "completed", timeout=0)


def test_a_rule_is_used_as_often_as_it_says() -> None:
    faults = Faults()
    faults.add(Rule(method="GET", path="/a/*", status=500, count=2))
    assert faults.take("POST", "/a/b") is None
    assert [faults.take("GET", "/a/b") is not None for _ in range(3)] == [True, True, False]
