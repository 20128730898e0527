"""Keeps a file of metrics up to date with a run."""

from collections.abc import Callable, Mapping
from pathlib import Path

from ghrunner_vm.files import write_atomically
from ghrunner_vm.lifecycle import metrics
from ghrunner_vm.record import read_record


class Textfile:
    """Writes `path` anew whenever the run has gone on. `places` are the directories in which the run may be by then."""

    def __init__(
        self, path: Path, places: tuple[Path, ...], budget: Callable[[], Mapping[str, int]], warn: Callable[[str], None]
    ) -> None:
        """`warn` hears once that the file cannot be written, which is not worth a run."""
        self._path = path
        self._places = places
        self._budget = budget
        self._warn: Callable[[str], None] | None = warn

    def write(self, run_id: str) -> None:
        """The state of the run, as its record tells it."""
        found = (read_record(place / run_id) for place in self._places)
        record = next((record for record in found if record is not None), None)
        if record is None:
            return
        try:
            # For the node exporter, which is another user. It reads *.prom only, so it never meets a file half written.
            write_atomically(self._path, metrics.text(record, self._budget()).encode(), mode=0o644)
        except OSError as error:
            if self._warn is not None:
                self._warn(f"the metrics cannot be written to {self._path}: {error.strerror}")
            self._warn = None
