"""The host's end of the guest channel on a real pair of sockets."""

import asyncio
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from ghrunner_vm.guest.channel import GuestChannel, Limits
from ghrunner_vm.guest.messages import GuestMessage, JobStarted, Log, Ready, Started
from tests.virtual_time import run_virtual

READY = b'{"type":"ready","agent":1}\n'
STARTED = b'{"type":"started"}\n'
LOG = b'{"type":"log","stream":"runner","text":"0123456789"}\n'


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        yield ours, theirs


Pair = tuple[socket.socket, socket.socket]


def hear(pair: Pair, said: bytes, limits: Limits | None = None) -> tuple[str | None, list[GuestMessage]]:
    """What the channel makes of a guest that says this and closes, or is not listened to any more."""
    ours, theirs = pair
    heard: list[GuestMessage] = []

    def speak() -> None:
        with theirs:
            try:
                theirs.sendall(said)
            except ConnectionError:
                return  # nobody reads the rest

    with ThreadPoolExecutor(1) as pool:
        speaking = pool.submit(speak)
        why = asyncio.run(GuestChannel(ours, limits).listen(heard.append))
        ours.close()
        speaking.result(timeout=30)
    return why, heard


def test_messages_come_in_order(pair: Pair) -> None:
    job = b'{"type":"job-started","job":"%d"}\n'
    jobs = b"".join(job % number for number in range(500))
    why, heard = hear(pair, READY + STARTED + jobs, Limits(messages=502))
    assert why is None
    assert heard[:2] == [Ready(type="ready", agent=1), Started(type="started")]
    assert [message.job for message in heard if isinstance(message, JobStarted)] == [str(n) for n in range(500)]


def test_half_a_line_at_the_end_is_no_message(pair: Pair) -> None:
    assert hear(pair, READY + STARTED[:-1]) == (None, [Ready(type="ready", agent=1)])


def test_a_little_garbage_is_forgiven(pair: Pair) -> None:
    why, heard = hear(pair, b"\n\x00\xff\n[]\n" + STARTED, Limits(garbage=3))
    assert (why, heard) == (None, [Started(type="started")])


@pytest.mark.parametrize(
    ("said", "limits", "why"),
    [
        (b"garbage\n" * 101, Limits(), "it sends garbage"),
        (b"\n" * 101, Limits(), "it sends garbage"),
        (STARTED * 101, Limits(), "it sends too many messages"),
        (LOG * 101, Limits(log_bytes=100 * (len(LOG) - 1)), "it floods its log"),
        (b"x" * (1 << 20), Limits(), "it sends a line without end"),
        (b"\0" * (1 << 20), Limits(), "it sends a line without end"),
    ],
)
def test_a_flood_closes_the_channel(pair: Pair, said: bytes, limits: Limits, why: str) -> None:
    told, heard = hear(pair, READY + said * 10, limits)
    assert told == why
    assert len(heard) <= 102


def test_a_guest_that_is_not_listened_to_can_go_on_writing(pair: Pair) -> None:
    """Else an honest agent beside the flood would wait in its kernel for ever, and the job's end with it."""
    ours, theirs = pair
    words = READY * 1000 + b"x" * (4 << 20)

    async def work() -> float:
        channel, loop = GuestChannel(ours), asyncio.get_running_loop()
        theirs.setblocking(False)
        speaking = asyncio.create_task(loop.sock_sendall(theirs, words))
        assert await channel.listen(lambda _: None) == "it sends too many messages"
        began = loop.time()
        discarding = asyncio.create_task(channel.discard())
        await speaking
        theirs.close()
        await discarding
        return loop.time() - began

    assert run_virtual(work()) > len(words) / (2 << 20)  # not faster than it may: a flood costs its host little


def test_what_was_said_before_the_flood_was_heard(pair: Pair) -> None:
    _, heard = hear(pair, READY + LOG * 101, Limits(log_bytes=100 * (len(LOG) - 1)))
    assert sum(isinstance(message, Log) for message in heard) == 100


def test_a_guest_that_never_pauses_does_not_keep_the_loop_to_itself(pair: Pair) -> None:
    ours, theirs = pair
    theirs.setblocking(False)
    waiting = theirs.send(LOG * 10_000) // len(LOG)
    heard: list[GuestMessage] = []

    async def others_get_a_turn() -> int:
        begun = asyncio.Event()

        def receive(message: GuestMessage) -> None:
            heard.append(message)
            begun.set()

        listening = asyncio.create_task(GuestChannel(ours).listen(receive))
        await begun.wait()
        count = len(heard)
        theirs.close()
        await listening
        return count

    first = asyncio.run(others_get_a_turn())
    assert 0 < first < waiting == len(heard)


def test_an_error_of_the_receiver_is_not_taken_for_the_end_of_the_channel(pair: Pair) -> None:
    def receive(_: GuestMessage) -> None:
        raise OSError("nobody reads the narration")

    ours, theirs = pair
    theirs.sendall(STARTED)
    with pytest.raises(OSError, match="narration"):
        asyncio.run(GuestChannel(ours).listen(receive))


def test_a_channel_whose_socket_fails_is_at_its_end(pair: Pair) -> None:
    ours, theirs = pair
    theirs.close()
    ours.close()
    assert asyncio.run(GuestChannel(ours).listen(lambda _: None)) is None


def test_what_the_host_says_arrives(pair: Pair) -> None:
    ours, theirs = pair
    assert asyncio.run(GuestChannel(ours).send(b"power-off\n\n"))
    assert theirs.recv(100) == b"power-off\n\n"


def test_a_guest_that_has_gone_is_told_nothing(pair: Pair) -> None:
    ours, theirs = pair
    theirs.close()
    assert not asyncio.run(GuestChannel(ours).send(b"power-off\n\n"))


def test_a_guest_that_never_reads_holds_its_host_up_for_30_seconds(pair: Pair) -> None:
    async def send() -> tuple[bool, float]:
        taken = await GuestChannel(pair[0]).send(b"x" * (8 << 20))
        return taken, asyncio.get_running_loop().time()

    assert run_virtual(send()) == (False, 30.0)


def test_the_longest_log_line_of_the_agent_is_within_the_limits(pair: Pair) -> None:
    line = json.dumps({"type": "log", "stream": "runner", "text": '"' * 16384}).encode() + b"\n"
    why, heard = hear(pair, line)
    assert why is None
    assert len(heard) == 1
