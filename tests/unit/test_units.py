"""Sizes and durations as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghrunner_vm.units import format_seconds, format_size, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1024", 1024),
        ("1K", 1024),
        ("512MiB", 512 << 20),
        ("4G", 4 << 30),
        ("1.5 gib", 3 << 29),
        (" 2T ", 2 << 40),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1G", "1.2", "1P", "1 G B", "0x10", "1e3", "1_000", "1.G", "nan"])
def test_texts_that_are_no_size(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not"):
        parse_size(text)


@given(st.integers(0, 10**12), st.sampled_from(list(enumerate(["", "K", "M", "G", "T"]))))
def test_every_whole_number_times_its_unit(number: int, unit: tuple[int, str]) -> None:
    assert parse_size(f"{number}{unit[1]}") == number << (10 * unit[0])


@given(st.text(max_size=20))
def test_any_text_is_a_size_or_a_value_error(text: str) -> None:
    try:
        assert parse_size(text) >= 0
    except ValueError:
        return


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (4 << 30, "4.0 GiB"), (5 << 40, "5.0 TiB")]
)
def test_sizes_for_people(size: int, text: str) -> None:
    assert format_size(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.42, "0.4 s"),
        (12.4, "12 s"),
        (59.6, "1 min 0 s"),
        (185, "3 min 5 s"),
        (3600, "1 h 0 min"),
        (7265, "2 h 1 min"),
    ],
)
def test_durations_for_people(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text
