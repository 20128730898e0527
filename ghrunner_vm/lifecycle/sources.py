"""Where events come from: signals, the guest, its console, GitHub, the end of the machine."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator

from ghrunner_vm.errors import GhvmError
from ghrunner_vm.github.limits import RateLimited
from ghrunner_vm.github.models import Presence, Sight
from ghrunner_vm.guest import messages as said
from ghrunner_vm.guest.messages import GuestMessage
from ghrunner_vm.lifecycle import events as ev
from ghrunner_vm.lifecycle.events import Event
from ghrunner_vm.network.wall import Refusals
from ghrunner_vm.vm.base import EndReason, VirtualMachine, VmEnd

Post = Callable[[Event], None]

_READ = 64 * 1024
_LAST_WORDS_SECONDS = 2.0
_HEARTBEAT_SECONDS = 30.0
_REFUSALS_SECONDS = 15.0
_MISSES = 4
# What Linux prints last. A device that tells of panics would be one more that a guest can misuse.
_PANIC = b"Kernel panic - not syncing"


@contextlib.asynccontextmanager
async def background(work: Coroutine[None, None, None], failed: Callable[[BaseException], None]) -> AsyncIterator[None]:
    """Run `work` beside the block; it is cancelled at the end. An error in it is reported at once."""

    def report(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            failed(error)

    task = asyncio.create_task(work)
    task.add_done_callback(report)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task


@contextlib.contextmanager
def signals(drain: Callable[[], None], interrupt: Callable[[], None]) -> Iterator[None]:
    """SIGTERM and SIGHUP drain, SIGINT interrupts; the loop calls back, so nothing runs inside a signal handler."""
    loop = asyncio.get_running_loop()
    handlers = {signal.SIGTERM: drain, signal.SIGHUP: drain, signal.SIGINT: interrupt}
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        del handlers[signal.SIGHUP]  # started by nohup(1), which wants a closed terminal to be ignored
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)


def from_guest(message: GuestMessage) -> Event | None:
    """What a guest's message means for the run; its log lines and its key mean nothing."""
    match message:
        case said.Ready():
            return ev.AgentReady()
        case said.Started():
            return ev.ListenerStarted()
        case said.Refused(why=why):
            return ev.GuestRefused(why)
        case said.JobStarted():
            return ev.GuestJobStarted()
        case said.JobFinished():
            return ev.GuestJobFinished()
        case said.Exited(code=code):
            return ev.ListenerExited(code)
        case said.Log() | said.HostKey():
            return None


async def read_console(machine: VirtualMachine, keep: Callable[[bytes], None], silent: asyncio.Event) -> None:
    """Take what the guest prints until it is `silent` for good: an unread console would stall the guest."""
    while data := await _receive(machine.console):
        with contextlib.suppress(OSError):  # a full disk: what the guest prints is lost, its job is not
            keep(data)
    silent.set()


async def _receive(stream: socket.socket) -> bytes:
    # Reading does not wait while there is more: a guest that never stops must not keep the loop to itself.
    await asyncio.sleep(0)
    try:
        return await asyncio.get_running_loop().sock_recv(stream, _READ)
    except OSError:
        return b""


async def await_end(machine: VirtualMachine, post: Post, silent: asyncio.Event, console: Callable[[], bytes]) -> None:
    """Tell of the machine's end, once all that the guest printed has been read."""
    end = await machine.ended()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LAST_WORDS_SECONDS):
            await silent.wait()
    if end.reason in (EndReason.RESET, EndReason.LEFT) and _PANIC in console():
        end = VmEnd(EndReason.PANICKED, end.detail)
    post(ev.VmEnded(end))


async def watch_vmm(machine: VirtualMachine, post: Post, trouble: Callable[[GhvmError], None]) -> None:
    """Tell when the VMM has not answered four times in a row, half a minute apart; and again if that goes on."""
    misses = 0
    while True:
        await asyncio.sleep(_HEARTBEAT_SECONDS)
        misses = 0 if await machine.answers() else misses + 1
        if misses == _MISSES:
            misses = 0
            trouble(GhvmError("the virtual machine's monitor has not answered for two minutes"))
            post(ev.VmmSilent())


async def watch_refusals(look: Callable[[], Awaitable[Refusals]], tell: Callable[[Refusals], None]) -> None:
    """Tell every 15 seconds what has been kept from the guest so far; a failure to look matters to nobody."""
    while True:
        await asyncio.sleep(_REFUSALS_SECONDS)
        with contextlib.suppress(GhvmError):
            tell(await look())


async def watch_github(
    look: Callable[[], Coroutine[None, None, Sight]],
    wake: asyncio.Event,
    interval: float,
    post: Post,
    trouble: Callable[[GhvmError], None],
    spent: Callable[[], int],
) -> None:
    """Ask GitHub every `interval` seconds, and when woken; a failure to ask says nothing about the job.

    `spent` tells how many requests GitHub has counted so far. A look that cost several is followed by as many
    intervals, so that no more than one in each is counted, whatever happens. A rate limit is not disturbed by waking.
    """
    cost = 1
    while True:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(interval * max(1, cost)):
                await wake.wait()
        wake.clear()
        before = spent()
        try:
            sight = await look()
        except RateLimited as error:
            trouble(error)
            await asyncio.sleep(error.retry_after)
        except GhvmError as error:
            trouble(error)
        except Exception as error:  # noqa: BLE001 a witness that fails is no reason to end a job
            trouble(GhvmError(f"GitHub could not be asked: {error!r}"))
        else:
            post(_told_by_github(sight))
        cost = spent() - before


def _told_by_github(sight: Sight) -> Event:
    if sight.presence is Presence.GONE:
        return ev.GitHubSaysGone()
    return ev.GitHubSaysBusy() if sight.busy else ev.GitHubSaysIdle()
