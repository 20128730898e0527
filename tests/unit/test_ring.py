"""The bounded file behind a guest's console."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghrunner_vm.ring import Ring, tail

LIMIT = 64


@given(st.lists(st.binary(max_size=LIMIT)), st.integers(1, 3 * LIMIT))
def test_the_last_bytes_are_kept_and_no_more_than_twice_the_limit(
    tmp_path_factory: pytest.TempPathFactory, writes: list[bytes], wanted: int
) -> None:
    path = tmp_path_factory.mktemp("ring") / "console.log"
    with Ring(path, LIMIT) as ring:
        for data in writes:
            ring.write(data)
    everything = b"".join(writes)
    kept = tail(path, 1 << 20)
    assert ring.total == len(everything)
    assert min(LIMIT, len(everything)) <= len(kept) + LIMIT
    assert len(kept) <= 2 * LIMIT
    assert everything.endswith(kept)
    assert tail(path, wanted) == kept[-wanted:]


def test_the_last_limit_is_always_there(tmp_path: Path) -> None:
    with Ring(tmp_path / "c", LIMIT) as ring:
        for number in range(100):
            ring.write(b"%07d\n" % number)
            kept = tail(tmp_path / "c", 1 << 20)
            assert len(kept) >= min(LIMIT, 8 * (number + 1))


def test_one_write_larger_than_the_ring_leaves_its_end(tmp_path: Path) -> None:
    with Ring(tmp_path / "c", LIMIT) as ring:
        ring.write(b"a" * 1000 + b"b" * LIMIT)
    assert tail(tmp_path / "c", LIMIT) == b"b" * LIMIT
    assert ring.total == 1000 + LIMIT


def test_a_ring_does_not_follow_a_link(tmp_path: Path) -> None:
    (tmp_path / "c").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        Ring(tmp_path / "c")
    assert not (tmp_path / "elsewhere").exists()


def test_the_tail_of_nothing(tmp_path: Path) -> None:
    assert tail(tmp_path / "missing", 10) == b""


def test_the_tail_is_never_that_of_another_file(tmp_path: Path) -> None:
    """Whoever has taken over a run's directory must not make ghvm show what only root may read."""
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "c").symlink_to(tmp_path / "secret")
    (tmp_path / "c.old").symlink_to(tmp_path / "secret")
    assert tail(tmp_path / "c", 10) == b""
