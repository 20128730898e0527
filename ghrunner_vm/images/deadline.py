"""A blocking call with a deadline."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def within(seconds: float, call: Callable[[], T], drop: Callable[[T], object], *, name: str) -> T:
    """The result of `call`; raises TimeoutError after `seconds`.

    The call then goes on in a daemon thread, and `drop` gets the result that nobody waits for any more.
    """
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 it is raised again where the result is awaited
            future.set_exception(error)

    threading.Thread(target=work, name=name, daemon=True).start()
    try:
        return future.result(seconds)
    except BaseException:
        future.add_done_callback(lambda late: late.exception() or drop(late.result()))
        raise
