"""What a guest may say and what the host says, against every stream of bytes and the shells that read it."""

import base64
import json
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghrunner_vm import process
from ghrunner_vm.guest.messages import (
    LINE_LIMIT,
    Exited,
    JobFinished,
    JobStarted,
    LineBuffer,
    Log,
    Overlong,
    Ready,
    Refused,
    Start,
    Started,
    decode,
)

TYPES = ["ready", "started", "refused", "job-started", "job-finished", "exited", "log", "", "stop"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
KEYS = st.sampled_from(["agent", "code", "job", "result", "stream", "text", "why", "ssh-host-key", "other"])


@given(st.binary())
def test_no_bytes_make_decode_raise(line: bytes) -> None:
    decode(line)


@given(st.sampled_from(TYPES), st.dictionaries(KEYS, JSON | st.just("runner") | st.just(1)))
def test_no_message_makes_decode_raise(kind: str, fields: dict[str, object]) -> None:
    decode(json.dumps({"type": kind, **fields}).encode())


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"null",
        b"[" * 60_000,
        b'{"type":' * 8_000,
        b'{"type":"log","stream":"runner","text":"\\ud800"}',
        b'{"type":"exited","code":' + b"9" * 5_000 + b"}",
        b'{"type":"exited","code":256}',
        b'{"type":"exited","code":-1}',
        b'{"type":"exited","code":"0"}',
        b'{"type":"exited","code":true}',
        b'{"type":"ready","agent":2}',
        b'{"type":"refused","why":"%s"}' % (b"x" * 1025),
        b'{"type":"log","stream":"host","text":""}',
    ],
)
def test_what_is_no_message_is_none(line: bytes) -> None:
    assert decode(line) is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"type":"ready","agent":1,"ssh-host-key":"k"}', Ready(type="ready", agent=1, **{"ssh-host-key": "k"})),
        (b'{"type":"ready","agent":1,"new":[1]}', Ready(type="ready", agent=1)),
        (b'{"type":"started"}', Started(type="started")),
        (b'{"type":"refused","why":"no"}', Refused(type="refused", why="no")),
        (b'{"type":"job-started"}', JobStarted(type="job-started")),
        (b'{"type":"job-finished","result":"Succeeded"}', JobFinished(type="job-finished", result="Succeeded")),
        (b'{"type":"exited","code":100}', Exited(type="exited", code=100)),
        (b'{"type":"log","stream":"runner","text":"\xff"}', Log(type="log", stream="runner", text="\ufffd")),
    ],
)
def test_messages(line: bytes, message: object) -> None:
    assert decode(line) == message


@given(st.lists(st.binary(max_size=50).map(lambda line: line.replace(b"\n", b""))), st.lists(st.integers(1, 20)))
def test_lines_do_not_depend_on_how_the_stream_is_cut(lines: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(line + b"\n" for line in lines) + b"half a line"
    buffer, found = LineBuffer(), []
    for size in cuts:
        found += buffer.feed(stream[:size])
        stream = stream[size:]
    found += buffer.feed(stream)
    assert found == lines


@pytest.mark.parametrize("chunk", [1000, LINE_LIMIT, 3 * LINE_LIMIT])
def test_a_line_without_end_is_found_before_the_limit_is_passed(chunk: int) -> None:
    buffer = LineBuffer()
    for _ in range((LINE_LIMIT - 1) // chunk):
        assert buffer.feed(b"x" * chunk) == []
    with pytest.raises(Overlong):
        buffer.feed(b"x" * chunk)


def test_the_longest_line() -> None:
    longest = b"x" * (LINE_LIMIT - 1)
    assert LineBuffer().feed(longest + b"\n") == [longest]
    with pytest.raises(Overlong):
        LineBuffer().feed(longest + b"x\n")


WORDS = st.text(st.characters(exclude_characters="\0\r", exclude_categories=["Cs"])).map(str.strip)
NAMES = st.text("ABCXYZ_", min_size=1, max_size=8)


@given(
    jitconfig=st.text("abcABC123+/=", min_size=1),
    entropy=st.binary(max_size=64),
    environment=st.dictionaries(NAMES, st.text("xyz =\"'$`\\\u00e9")),
    keep_running=st.booleans(),
    keys=WORDS,
)
def test_start_is_what_its_lines_say(
    jitconfig: str, entropy: bytes, environment: dict[str, str], keep_running: bool, keys: str
) -> None:
    start = Start(jitconfig, 1_800_000_000, entropy, "host-1", environment, keep_running, keys)
    first, *lines, end, after = start.encode().decode("ascii").split("\n")
    fields = {key: base64.b64decode(value, validate=True) for key, value in (line.split(" ") for line in lines)}
    assert (first, end, after) == ("start", "", "")
    assert fields["jitconfig"] == jitconfig.encode()
    assert fields["time"] == b"1800000000"
    assert fields.get("entropy", b"") == entropy
    assert fields.get("env", b"").decode() == "\n".join(f"{name}={value}" for name, value in environment.items())
    assert ("keep-running" in fields) == keep_running
    assert fields.get("authorized-keys", b"").decode() == keys


READ = r"""
while IFS= read -r line && [ -n "$line" ]; do
    case $line in
        start) ;;
        *) printf '%s=' "${line%% *}"; printf '%s' "${line#* }" | base64 -d; echo ;;
    esac
done <"$1"
"""


@pytest.mark.parametrize("shell", [["dash"], ["busybox", "ash"]])
def test_a_shell_reads_start_as_it_was_meant(shell: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    if shutil.which(shell[0]) is None:
        pytest.fail(f"{shell[0]} is missing: run tools/setup test")
    value = "a b\\n$HOME `id` 'x' \"y\" \u00e9"
    start = Start("config==", 7, b"", "host-1", {"A": value, "B": ""}, keep_running=True)
    sent = tmp_path_factory.mktemp("start") / "sent"
    sent.write_bytes(start.encode())
    said = process.run([*shell, "-c", READ, "sh", str(sent)], timeout=30)
    lines = [line for line in said.splitlines() if not line.startswith("sha256=")]
    assert lines == ["jitconfig=config==", "time=7", "hostname=host-1", f"env=A={value}", "B=", "keep-running=1"]


@pytest.mark.parametrize(("kind", "field"), [("log", "text"), ("job-finished", "result"), ("refused", "why")])
def test_what_a_guest_says_is_one_line_and_drives_nothing(kind: str, field: str) -> None:
    line = json.dumps({"type": kind, "stream": "runner", field: "a\nb\rc\x1bd\u202ee\u2028f\tg"})
    assert getattr(decode(line.encode()), field) == "a\ufffdb\ufffdc\ufffdd\ufffde\ufffdf\tg"
