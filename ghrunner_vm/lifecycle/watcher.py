"""Drains a run when its image has been published anew, so that hosts do not go on with an old one."""

import asyncio
import random
from collections.abc import Callable, Coroutine

from ghrunner_vm.errors import GhvmError
from ghrunner_vm.lifecycle.events import Drain, DrainReason, Event

Spread = Callable[[float, float], float]
"""A random number between two bounds."""


async def watch_image(
    newer: Callable[[], Coroutine[None, None, str | None]],
    interval: float,
    post: Callable[[Event], None],
    found: Callable[[str], None],
    trouble: Callable[[GhvmError], None],
    *,
    spread: Spread = random.uniform,
) -> None:
    """Ask about every `interval` seconds for the commit of a newer image, which `newer` has then pulled and verified.

    The drain comes up to `interval` seconds after the image was `found`, and only if it is still offered then: hosts
    that find it at the same time do not all stop at once, and whoever published it may take it back. A publish that
    cannot be used changes nothing, and is told once.
    """
    told = None
    while True:
        await asyncio.sleep(spread(0.75 * interval, 1.25 * interval))
        try:
            commit = await newer()
            if commit is None:
                continue
            found(commit)
            await asyncio.sleep(spread(0, interval))
            if await newer() is None:
                continue
        except Exception as error:  # noqa: BLE001 an image that cannot be had is no reason to end a job
            known = error if isinstance(error, GhvmError) else GhvmError(f"no newer image can be had: {error!r}")
            if known.brief != told:
                trouble(known)
            told = known.brief
        else:
            post(Drain(DrainReason.NEW_IMAGE))
            return
