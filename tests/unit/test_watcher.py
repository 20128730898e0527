"""When a newer image drains a run, in virtual time."""

import asyncio
from collections.abc import Iterator

from ghrunner_vm.errors import GhvmError
from ghrunner_vm.lifecycle.events import Drain, DrainReason, Event
from ghrunner_vm.lifecycle.watcher import watch_image
from tests.virtual_time import run_virtual

INTERVAL = 300
OVER = "over"


def latest(low: float, high: float) -> float:  # noqa: ARG001 the interface of Spread
    """Waits as long as it may."""
    return high


class Scene:
    """What a watcher was told and did, and when."""

    def __init__(self, *answers: str | Exception | None) -> None:
        self._answers: Iterator[str | Exception | None] = iter(answers)
        self.asked: list[float] = []
        self.posted: list[tuple[float, Event]] = []
        self.found: list[str] = []
        self.troubles: list[str] = []

    async def newer(self) -> str | None:
        self.asked.append(asyncio.get_running_loop().time())
        answer = next(self._answers, OVER)
        if answer is OVER:
            raise asyncio.CancelledError
        if isinstance(answer, Exception):
            raise answer
        return answer

    def post(self, event: Event) -> None:
        self.posted.append((asyncio.get_running_loop().time(), event))

    def watch(self) -> "Scene":
        async def work() -> None:
            watching = watch_image(
                self.newer,
                INTERVAL,
                self.post,
                self.found.append,
                lambda e: self.troubles.append(e.brief),
                spread=latest,
            )
            await asyncio.wait({asyncio.ensure_future(watching)})

        run_virtual(work())
        return self


def test_an_image_that_is_there_to_stay_drains_after_a_while() -> None:
    scene = Scene(None, "new", "new").watch()
    assert scene.asked == [375, 750, 1050]
    assert scene.posted == [(1050, Drain(DrainReason.NEW_IMAGE))]
    assert scene.found == ["new"]


def test_an_image_that_is_taken_back_changes_nothing() -> None:
    scene = Scene("bad", None, None).watch()
    assert scene.posted == []
    assert len(scene.asked) == 4


def test_a_publish_that_cannot_be_used_is_told_once_and_changes_nothing() -> None:
    corrupt = GhvmError("corrupt")
    scene = Scene(corrupt, corrupt, GhvmError("gone"), corrupt, "new", corrupt).watch()
    assert scene.posted == []
    assert scene.troubles == ["corrupt", "gone", "corrupt"]
    assert scene.found == ["new"]


def test_whatever_goes_wrong_ends_nothing() -> None:
    scene = Scene(OSError("stale"), ValueError("odd"), None).watch()
    assert scene.posted == []
    assert [("stale" in brief, "odd" in brief) for brief in scene.troubles] == [(True, False), (False, True)]
    assert len(scene.asked) == 4
