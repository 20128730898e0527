"""Which troubles of the simulator the tests show, and what the documents say of each."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

Test = TypeVar("Test", bound=Callable[..., None])
PAGE = Path(__file__).parents[1] / "docs" / "troubles.md"
_ROW = re.compile(r"^\| (`.*`) \| (.*) \| (\d+) \|$", re.MULTILINE)

SHOWN: set[str] = set()
"""What the tests that were imported so far show."""


@dataclass(frozen=True)
class Documented:
    """A row of the page: ghvm's words and the exit code."""

    says: str
    exit_code: int


def documented() -> dict[str, Documented]:
    """The page's rows by the names of the troubles."""
    rows = _ROW.findall(PAGE.read_text(encoding="utf-8"))
    return {name: Documented(says, int(code)) for names, says, code in rows for name in re.findall(r"`(.*?)`", names)}


def shows(*names: str) -> Callable[[Test], Test]:
    """Marks a test as the one that shows these troubles."""
    SHOWN.update(names)
    return lambda test: test
