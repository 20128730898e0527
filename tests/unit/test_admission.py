"""Whether a host has room for one more machine."""

from dataclasses import replace

import pytest

from ghrunner_vm.errors import ExitCode, InfrastructureError
from ghrunner_vm.vm.admission import Claim, Room, Rules, refusal

MIB, GIB = 1 << 20, 1 << 30
ONE = Claim(ram=8 * GIB, accelerator="kvm", root_disk=20 * GIB)
ROOM = Room(memory=32 * GIB, memory_available=30 * GIB, disk_free=100 * GIB)
RULES = Rules(reserve=2 * GIB)


def _refused(
    wanted: Claim = ONE, others: int = 0, room: Room = ROOM, rules: Rules = RULES, other: Claim = ONE
) -> InfrastructureError:
    error = refusal(wanted, [other] * others, room, rules)
    assert error is not None
    assert error.exit_code is ExitCode.INFRASTRUCTURE
    return error


def test_one_machine_on_an_idle_host_is_admitted() -> None:
    assert refusal(ONE, [], ROOM, RULES) is None


def test_memory_is_promised_but_once_however_little_of_it_is_used() -> None:
    assert refusal(ONE, [ONE] * 2, ROOM, RULES) is None
    error = _refused(others=3)
    assert error.details == (
        "This machine needs 8.2 GiB, 3 others hold 24.6 GiB of 32.0 GiB, and 2.0 GiB are kept for the host."
    )
    assert "fewer machines" in str(error.resolution)


def test_a_machine_that_fits_exactly_is_admitted_and_one_byte_more_is_not() -> None:
    exact = replace(ROOM, memory=ONE.memory * 2 + RULES.reserve)
    assert refusal(ONE, [ONE], exact, RULES) is None
    _refused(others=1, room=replace(exact, memory=exact.memory - 1))


def test_one_that_never_fits_is_told_only_what_helps() -> None:
    error = _refused(replace(ONE, ram=31 * GIB))
    assert error.details == "This machine needs 31.4 GiB, this host has 32.0 GiB, and 2.0 GiB are kept for the host."
    assert str(error.resolution).startswith('Lower "ram" in the spec.')


def test_an_emulated_machine_needs_more() -> None:
    tight = replace(ROOM, memory=ONE.memory + RULES.reserve)
    assert refusal(ONE, [], tight, RULES) is None
    assert "8.4 GiB" in str(_refused(replace(ONE, accelerator="tcg"), room=tight).details)


def test_what_others_on_the_host_use_is_not_there() -> None:
    error = _refused(room=replace(ROOM, memory_available=9 * GIB))
    assert "9.0 GiB of 32.0 GiB are available" in str(error.details)


def test_overcommitment_is_a_choice() -> None:
    rules = replace(RULES, memory_ratio=1.5)
    assert refusal(ONE, [ONE] * 4, ROOM, rules) is None
    assert "(promised 1.5 times)" in str(_refused(others=5, rules=rules).details)


def test_a_disk_counts_by_what_may_still_be_written() -> None:
    fresh, full = replace(ONE, root_disk=90 * GIB), replace(ONE, root_disk=90 * GIB, disk_used=90 * GIB)
    assert refusal(ONE, [full], ROOM, RULES) is None
    error = _refused(others=1, other=fresh)
    assert error.details == (
        "This machine may write 20.0 GiB, 1 other holds 90.0 GiB of the 100.0 GiB that are free, and 0 B stay free."
    )
    assert "images prune" in str(error.resolution)


def test_a_disk_that_has_grown_beyond_its_promise_gives_no_room_back() -> None:
    grown = replace(ONE, root_disk=GIB, disk_used=100 * GIB)
    assert refusal(replace(ONE, root_disk=100 * GIB), [grown], ROOM, RULES) is None
    _refused(replace(ONE, root_disk=100 * GIB + 1), others=1, other=grown)


def test_a_machine_that_writes_to_its_memory_needs_no_disk() -> None:
    assert refusal(replace(ONE, root_disk=0), [replace(ONE, root_disk=200 * GIB)], ROOM, RULES) is None


@pytest.mark.parametrize(("rules", "admitted"), [(Rules(0, disk_ratio=0.1), False), (Rules(0, disk_ratio=4), True)])
def test_disks_are_overcommitted_by_their_own_ratio(rules: Rules, admitted: bool) -> None:
    assert (refusal(replace(ONE, root_disk=50 * GIB), [ONE] * 2, ROOM, rules) is None) is admitted


def test_some_of_the_disk_stays_free() -> None:
    assert "85.0 GiB stay free" in str(_refused(rules=replace(RULES, disk_reserve=85 * GIB)).details)
