"""How runners age, and when it matters."""

from datetime import date, timedelta

import pytest

from ghrunner_vm.errors import ExitCode, PermanentError
from ghrunner_vm.images.ageing import Runner, advice, days_left, require_young, runner
from tests.integration.images_site import bundle, disk

TODAY = date(2026, 11, 25)
MANIFEST = bundle("ubuntu", {"ubuntu.qcow2": disk(size=1 << 10)})


def aged(days: int, *, most: int = 30, newest: str | None = None, version: str | None = "2.337.0") -> Runner:
    changes = {"runner_date": TODAY - timedelta(days=days), "runner_version": version}
    return runner(MANIFEST.model_copy(update=changes), TODAY, most, lambda: newest)


@pytest.mark.parametrize(
    ("days", "old", "left"),
    [(-1, False, 31), (0, False, 30), (22, False, 8), (23, True, 7), (29, True, 1), (30, True, 0), (90, True, 0)],
)
def test_a_runner_that_is_not_the_newest(days: int, old: bool, left: int) -> None:
    found = aged(days, newest="2.338.0")
    assert (found.old, found.left(TODAY)) == (old, left)
    assert found == aged(days)  # as if GitHub could not be asked


@pytest.mark.parametrize("newest", ["2.337.0", "2.336.10", "2.99.0"])
def test_the_newest_runner_is_never_too_old(newest: str) -> None:
    found = aged(300, newest=newest)
    assert (found.newest, found.old, found.until) == (True, False, None)
    assert found.words == "2.337.0, 300 days old, the newest there is"
    require_young(found, 30)


def test_github_is_asked_about_old_runners_only() -> None:
    def ask() -> str:
        pytest.fail("GitHub was asked")

    young = MANIFEST.model_copy(update={"runner_date": TODAY - timedelta(days=22)})
    assert not runner(young, TODAY, 30, ask).old
    assert runner(MANIFEST, TODAY, 30, ask) == Runner("ubuntu", "2.337.0", None, None)


def test_too_old_is_permanent_until_the_image_is_built_anew() -> None:
    require_young(aged(29), 30)
    with pytest.raises(PermanentError, match="The runner in the image ubuntu is too old") as caught:
        require_young(aged(30), 30)
    assert caught.value.exit_code == ExitCode.PERMANENT
    assert "2.337.0, 30 days old; runner-max-age-days is 30" in str(caught.value.details)
    assert "Build the image anew" in str(caught.value.resolution)


def test_the_limit_is_a_setting_and_0_is_none() -> None:
    require_young(aged(59, most=60), 60)
    with pytest.raises(PermanentError):
        require_young(aged(60, most=60), 60)
    require_young(aged(1000, most=0), 0)
    assert aged(25, most=0).left(TODAY) == 5
    assert aged(25, most=60).left(TODAY) == 35


def test_without_a_version_nobody_knows_whether_it_is_the_newest() -> None:
    found = aged(25, version=None, newest="2.337.0")
    assert (found.old, found.words) == (True, "unknown version, 25 days old")
    assert "ubuntu" in advice(found)


def test_an_image_that_tells_no_date_is_neither_old_nor_refused() -> None:
    found = runner(MANIFEST, TODAY, 30)
    assert (found.old, found.left(TODAY), found.words) == (False, None, "2.337.0, age unknown")
    require_young(found, 30)


def test_days_left_end_at_none() -> None:
    assert [days_left(TODAY, TODAY + timedelta(days=days)) for days in (-2, 0, 5)] == [2, 0, 0]
