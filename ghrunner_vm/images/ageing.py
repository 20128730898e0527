"""How long the runner in an image may still be used. Pure.

GitHub refuses a runner 30 days after a newer version of it was released:
https://docs.github.com/en/actions/reference/runners/self-hosted-runners. When that was is not known here, so a runner
counts as 30 days old when it was built 30 days ago, unless GitHub still offers no newer one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta

from ghrunner_vm.images.errors import RunnerTooOld
from ghrunner_vm.images.manifest import Manifest

WARN_DAYS = 23
GITHUB_DAYS = 30


@dataclass(frozen=True)
class Runner:
    """The runner in an image. `until` is the first day on which it is too old; None if that is not known to come."""

    image: str
    version: str | None
    days: int | None
    """Its age; None if the image does not tell."""
    until: date | None
    newest: bool = False
    """GitHub offers no newer one, so its age does not matter."""

    @property
    def old(self) -> bool:
        """Whether a person should know of its age."""
        return self.days is not None and self.days >= WARN_DAYS and not self.newest

    def left(self, today: date) -> int | None:
        """The days it can still be used; None if that is not known."""
        return None if self.until is None else days_left(self.until, today)

    @property
    def words(self) -> str:
        """Which it is, and how old."""
        version = self.version or "unknown version"
        if self.days is None:
            return f"{version}, age unknown"
        newest = ", the newest there is" if self.newest else ""
        return f"{version}, {self.days} days old{newest}"


def runner(manifest: Manifest, today: date, most: int, newest: Callable[[], str | None] = lambda: None) -> Runner:
    """The runner of an image. `most` are the days of `runner-max-age-days`, 0: no limit but GitHub's.

    `newest` tells the version that GitHub offers, None if it cannot be asked; it is asked about old runners only.
    """
    built = manifest.runner_date
    if built is None:
        return Runner(manifest.name, manifest.runner_version, None, None)
    days = max(0, (today - built).days)
    if days >= WARN_DAYS and _is_newest(manifest.runner_version, newest()):
        return Runner(manifest.name, manifest.runner_version, days, None, newest=True)
    return Runner(manifest.name, manifest.runner_version, days, built + timedelta(days=most or GITHUB_DAYS))


def require_young(runner: Runner, most: int) -> None:
    """Raise RunnerTooOld for a runner that is `most` days old, unless that is 0 or there is none newer."""
    if most and runner.days is not None and runner.days >= most and not runner.newest:
        raise RunnerTooOld(
            f"The runner in the image {runner.image} is too old",
            details=f"It is {runner.words}; runner-max-age-days is {most}. GitHub refuses a runner {GITHUB_DAYS} days "
            "after a newer one.",
            resolution="Build the image anew, with the newest runner, and publish it.",
        )


def advice(runner: Runner) -> str:
    """What to do about an old one."""
    return f"Build the image {runner.image} anew: GitHub refuses a runner {GITHUB_DAYS} days after a newer one."


def days_left(until: date, today: date) -> int:
    """Days until then, 0 once it has come."""
    return max(0, (until - today).days)


def _is_newest(version: str | None, newest: str | None) -> bool:
    return version is not None and newest is not None and _numbers(version) >= _numbers(newest)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
