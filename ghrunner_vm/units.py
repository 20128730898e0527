"""Sizes and durations as people write them."""

import re
from datetime import UTC, datetime

_FACTORS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DURATION = re.compile(r"(?P<number>\d{1,9})(?P<unit>[smhdw])")
_SIZE = re.compile(r"(?P<number>\d{1,15}(?:\.\d{1,6})?)\s*(?P<unit>[KMGT]?)(?:i?B)?", re.IGNORECASE)

SIZE_FORMS = 'bytes, or a number with M, G or T (powers of 1024), as in "512M", "4G" or "1.5GiB"'


def parse_size(text: str) -> int:
    """Bytes of a size such as `4G`, `512MiB` or `1024`; every suffix is a power of 1024.

    Raises ValueError when the text is no size or is not a whole number of bytes.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size: write {SIZE_FORMS}")
    whole, _, fraction = match["number"].partition(".")
    factor = _FACTORS[match["unit"].upper()]
    denominator: int = 10 ** len(fraction)
    scaled, rest = divmod(int(whole + fraction) * factor, denominator)
    if rest:
        raise ValueError(f"{text!r} is not a whole number of bytes")
    return scaled


def parse_duration(text: str) -> float:
    """Seconds of an age such as `90s`, `30m`, `12h`, `7d` or `4w`. Raises ValueError when it is none."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no time: write a whole number with s, m, h, d or w, as in 12h or 7d")
    return float(match["number"]) * _SECONDS[match["unit"]]


def parse_port(value: object) -> int:
    """A TCP port from JSON. Raises ValueError if it is none."""
    if not isinstance(value, int) or not 0 < value < 1 << 16:
        raise ValueError(f"{value!r} is no port")
    return value


def shortened(text: str, most: int = 40) -> str:
    """The text, its end left out if it has more than `most` letters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def format_size(size: int) -> str:
    """A size in bytes for people: `1.5 GiB`."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def format_seconds(seconds: float) -> str:
    """A duration for people: `0.4 s`, `12 s`, `3 min 5 s`, `2 h 0 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def format_time(seconds: float) -> str:
    """A moment, given in seconds since 1970, in local time: `2026-05-04 13:02:01`."""
    return datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def format_age(seconds: float) -> str:
    """A rough age for people: `40 s`, `5 min`, `3 h`, `12 d`."""
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit}"
    return f"{seconds:.0f} s"
