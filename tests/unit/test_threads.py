"""Blocking calls beside the loop."""

import asyncio
import contextlib
import threading

import pytest

from ghrunner_vm.threads import in_daemon_thread


def test_the_result_comes_back_from_a_daemon_thread() -> None:
    thread = asyncio.run(in_daemon_thread(threading.current_thread, name="beside"))
    assert thread is not threading.main_thread()
    assert thread.daemon
    assert thread.name == "beside"


def test_none_is_a_result() -> None:
    asyncio.run(in_daemon_thread(lambda: None, name="beside"))


def test_an_error_is_raised_where_it_is_awaited() -> None:
    def fail() -> None:
        raise KeyError("fault")

    with pytest.raises(KeyError, match="fault"):
        asyncio.run(in_daemon_thread(fail, name="beside"))


@pytest.mark.parametrize("fault", [False, True])
def test_a_call_whose_waiter_is_gone_is_dropped_and_holds_nobody_up(fault: bool) -> None:
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        go_on.wait(30)
        ended.set()
        if fault:
            raise KeyError("nobody hears of it")

    async def cancel_it() -> None:
        task = asyncio.create_task(in_daemon_thread(slow, name="slow"))
        await in_daemon_thread(lambda: begun.wait(30), name="waits")
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(cancel_it())
    assert not ended.is_set()
    slow_one = next(thread for thread in threading.enumerate() if thread.name == "slow")
    go_on.set()
    slow_one.join(30)
    assert ended.is_set()
    assert not slow_one.is_alive()
