"""Where a runner is registered, and what it is called."""

import re
import secrets
from dataclasses import dataclass
from enum import Enum
from typing import Self

from ghrunner_vm.config import RUNNER_PREFIX, RUNNER_PREFIX_FORMS
from ghrunner_vm.errors import UsageError

_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")
_REPOSITORY = re.compile(r"[A-Za-z0-9_-]{1,100}/(?!\.{1,2}$)[A-Za-z0-9._-]{1,100}")


class Kind(Enum):
    """What owns runners; the value is the word in front of the colon."""

    ORG = "org"
    REPO = "repo"
    ENTERPRISE = "enterprise"


_ROOTS = {Kind.ORG: "orgs", Kind.REPO: "repos", Kind.ENTERPRISE: "enterprises"}


@dataclass(frozen=True)
class Scope:
    """An organization, a repository (`OWNER/NAME`) or an enterprise. Raises UsageError for an impossible name."""

    kind: Kind
    name: str

    def __post_init__(self) -> None:
        pattern = _REPOSITORY if self.kind is Kind.REPO else _NAME
        if not pattern.fullmatch(self.name):
            raise UsageError(
                f"{self.name[:200]!r} cannot name a GitHub {self.kind.value}",
                resolution="Write org:NAME, repo:OWNER/NAME or enterprise:NAME.",
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """The scope in `org:NAME`, `repo:OWNER/NAME` or `enterprise:NAME`. Raises UsageError."""
        kind, _, name = text.partition(":")
        if kind not in {one.value for one in Kind}:
            resolution = "Write org:NAME, repo:OWNER/NAME or enterprise:NAME."
            raise UsageError(f"{text[:200]!r} is no GitHub scope", resolution=resolution)
        return cls(Kind(kind), name)

    @property
    def path(self) -> str:
        """The path in front of `/actions/runners` and `/installation`."""
        return f"/{_ROOTS[self.kind]}/{self.name}"

    def __str__(self) -> str:
        return f"{self.kind.value}:{self.name}"


def runner_name(prefix: str) -> str:
    """A name that no other runner has: `PREFIX-` and 8 hexadecimal digits, at most 64 characters.

    A name is never used twice, since GitHub may have registered one whose answer was lost. Raises UsageError.
    """
    if not RUNNER_PREFIX.fullmatch(prefix):
        resolution = f"Use {RUNNER_PREFIX_FORMS}."
        raise UsageError(f"{prefix[:200]!r} cannot begin a runner's name", resolution=resolution)
    return f"{prefix}-{secrets.token_hex(4)}"
