"""Keeps a file of metrics up to date with a run."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from ghrunner_vm.clock import SYSTEM, Clock
from ghrunner_vm.files import write_atomically
from ghrunner_vm.lifecycle import metrics
from ghrunner_vm.lifecycle.metrics import Snapshot
from ghrunner_vm.record import RunRecord, read_record


class Textfile:
    """Writes `path` anew whenever the run has gone on, if there is to be such a file.

    `places` are the directories in which the run may be by then, and `failures` tells how many runs have failed.
    """

    def __init__(
        self,
        path: Path | None,
        label: str,
        places: tuple[Path, ...],
        failures: Callable[[], int | None],
        warn: Callable[[str], None],
        clock: Clock = SYSTEM,
    ) -> None:
        """`warn` hears once that the file cannot be written, which is not worth a run."""
        self._path = path
        self._label = label
        self._places = places
        self._failures = failures
        self._warn: Callable[[str], None] | None = warn
        self._clock = clock
        self._record: RunRecord | None = None
        self.run_id: str | None = None
        """The run, once there is one."""
        self.budget: Callable[[], Mapping[str, int]] = dict
        """Tells what is left of GitHub's rate limit."""

    def write(self) -> None:
        """The state of the run, as its record tells it."""
        self._look()
        if self._record is not None:
            self._put(failed=None)

    @contextlib.contextmanager
    def to_the_end(self) -> Iterator[None]:
        """Also write how the block ends: a run that fails before it has a record has failed as well."""
        failed = None
        try:
            yield
        except Exception:
            failed = self._clock.wall()
            raise
        finally:
            self._look()
            if self._record is not None or failed is not None:
                self._put(failed)

    def _look(self) -> None:
        """The record as it is by now, or as it was last: the history may not keep it."""
        if self._path is not None and self.run_id is not None:
            found = (read_record(place / self.run_id) for place in self._places)
            self._record = next((record for record in found if record is not None), self._record)

    def _put(self, failed: float | None) -> None:
        if self._path is None:
            return
        snapshot = Snapshot(self._label, self._record, failed, self._failures(), self.budget())
        try:
            # For the node exporter, which is another user. It reads *.prom only, so it never meets a file half written.
            write_atomically(self._path, metrics.text(snapshot).encode(), mode=0o644)
        except OSError as error:
            if self._warn is not None:
                self._warn(f"the metrics cannot be written to {self._path}: {error.strerror}")
            self._warn = None
