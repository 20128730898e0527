"""How long a service waits before its next run: longer and longer while its runs fail one after another.

systemd's own back-off (RestartSteps=, systemd 254) counts good runs as well, and a run takes one job only. So the
failures since the last good run are counted, in one file for each spec: STATE/back-off-{hash of the spec's path}.json.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ghrunner_vm.clock import SYSTEM, Clock
from ghrunner_vm.errors import ExitCode, told
from ghrunner_vm.files import read_own, write_atomically

_FIRST_SECONDS = 5.0
_LONGEST_SECONDS = 300.0
_LIMIT = 4096
_NO_FAILURE = (ExitCode.OK, ExitCode.JOB_TIMEOUT, ExitCode.INTERRUPTED)
_NOT_TRIED_AGAIN = (ExitCode.USAGE, ExitCode.PERMANENT)
"""The unit does not start the next run after these."""


class _Count(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    failures: int = Field(0, ge=0)
    last: float = Field(0.0, allow_inf_nan=False)
    """Seconds since 1970 at which a run failed last."""


def counter(state: Path, spec_file: Path) -> Path:
    """The file in the state directory that counts for this spec."""
    digest = hashlib.sha256(os.fsencode(spec_file.absolute())).hexdigest()
    return state / f"back-off-{digest[:16]}.json"


class BackOff:
    """Counts in the file `path`; without one nothing is counted, and nobody waits."""

    def __init__(self, path: Path | None, clock: Clock = SYSTEM) -> None:
        self._path = path
        self._clock = clock

    @property
    def failures(self) -> int | None:
        """Runs that failed since the last good one; None if they are not counted."""
        return None if self._path is None else self._read().failures

    @property
    def pause(self) -> float:
        """Seconds to wait before the next run: 0 after a good one, then 5, 10, 20 … 300 since the last one failed."""
        count = self._read()
        if count.failures == 0:
            return 0.0
        since = max(0.0, self._clock.wall() - count.last)  # a clock may be set back
        return max(0.0, min(_FIRST_SECONDS * float(1 << min(count.failures - 1, 16)), _LONGEST_SECONDS) - since)

    @contextlib.contextmanager
    def counting(self) -> Iterator[float]:
        """One run, from its preparation on: yields the pause before it, and counts how the block ends."""
        try:
            yield self.pause
        except Exception as error:
            self._ended(told(error).exit_code)
            raise
        self._ended(ExitCode.OK)

    def _ended(self, code: ExitCode) -> None:
        if self._path is None or code in _NOT_TRIED_AGAIN:
            return
        with contextlib.suppress(OSError):  # the run's own end is what is told
            if code in _NO_FAILURE:
                self._path.unlink(missing_ok=True)
            else:
                count = _Count(failures=self._read().failures + 1, last=self._clock.wall())
                self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                write_atomically(self._path, count.model_dump_json().encode())

    def _read(self) -> _Count:
        """What is counted; nothing if the file is missing, damaged or another user's."""
        content = None if self._path is None else read_own(self._path, _LIMIT)
        try:
            return _Count() if content is None else _Count.model_validate_json(content)
        except ValidationError:
            return _Count()
