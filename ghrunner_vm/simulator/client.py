"""The simulator's admin routes from another process."""

from collections.abc import Iterator, Sequence
from typing import Literal, Self

import requests
from pydantic import BaseModel

from ghrunner_vm.errors import InfrastructureError, UsageError

TIMEOUT = (5.0, 30.0)
WAIT_SECONDS = 15


class JobRecord(BaseModel):
    """A job as the simulator tells it; `log` begins at the line asked for."""

    id: int
    name: str
    labels: list[str]
    run: str
    status: Literal["queued", "in_progress", "completed"]
    conclusion: str | None
    runner_id: int | None
    runner_name: str | None
    created_at: str
    started_at: str | None
    completed_at: str | None
    log: list[str]


class SimulatorClient:
    """Queues jobs and follows them. Raises InfrastructureError when no simulator answers at `url`."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._session = requests.Session()
        self._session.trust_env = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._session.close()

    def enqueue(self, labels: Sequence[str], run: str, name: str) -> JobRecord:
        """Queue a job that runs shell text on a runner with all these labels."""
        return self._job("POST", "/jobs", json={"labels": list(labels), "run": run, "name": name})

    def job(self, job_id: int, *, start: int = 0, wait: float = 0) -> JobRecord:
        """A job with its log from line `start` on; waits up to `wait` seconds for news."""
        return self._job("GET", f"/jobs/{job_id}", params={"from": start, "wait": wait})

    def follow(self, job_id: int) -> Iterator[JobRecord]:
        """Records as the job goes on, each with the log lines since the last one, until it has ended."""
        seen = 0
        while True:
            record = self.job(job_id, start=seen, wait=WAIT_SECONDS)
            seen += len(record.log)
            yield record
            if record.status == "completed":
                return

    def _job(self, method: str, path: str, **arguments: object) -> JobRecord:
        try:
            response = self._session.request(method, f"{self._url}/_sim{path}", timeout=TIMEOUT, **arguments)  # type: ignore[arg-type]
        except requests.RequestException as error:
            raise InfrastructureError(
                f"No simulator answers at {self._url}.",
                details=str(error),
                resolution="Start one with: ghvm sim serve",
            ) from error
        if not response.ok:
            raise UsageError("The simulator refuses the request.", details=response.text)
        return JobRecord.model_validate_json(response.content)
