"""Which version of the runner is the newest."""

import re

from ghrunner_vm.errors import GhvmError
from ghrunner_vm.github.client import GitHub

_FILE = re.compile(r"actions-runner-linux-[a-z0-9]+-(\d{1,5}(?:\.\d{1,5}){1,3})\.tar\.gz")


def newest_runner(github: GitHub) -> str | None:
    """The version of the runner for Linux that GitHub offers; None if it does not tell. Blocks, and never raises."""
    try:
        named = (_FILE.fullmatch(download.filename) for download in github.downloads())
    except GhvmError:  # whatever is wrong, other requests tell it, and the runner's age is all that is known
        return None
    return next((match[1] for match in named if match), None)
