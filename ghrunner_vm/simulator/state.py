"""What the simulated GitHub knows: runner groups, runners and jobs. One lock guards it all; no HTTP here."""

import contextlib
import itertools
import secrets
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric import rsa

from ghrunner_vm.clock import Clock
from ghrunner_vm.simulator import jitconfig
from ghrunner_vm.simulator.identity import Identity
from ghrunner_vm.simulator.model import (
    Conclusion,
    Conduct,
    Group,
    GroupFull,
    Job,
    JobStatus,
    Message,
    NameTaken,
    NotFound,
    Registration,
    Runner,
    Scope,
    StillBusy,
    timestamp,
)

T = TypeVar("T")
RUNNER_VERSION = "2.337.0"
MINIMUM_VERSION = "2.329.0"
GROUP_LIMIT = 10_000


class State:
    """Everything the simulator remembers. Every method may be called from any thread.

    Records are frozen: a caller holds a picture of the moment. `minimum_version` is the oldest runner version that
    gets messages; `group_limit` is how many runners a group may hold.
    """

    def __init__(self, clock: Clock, org: str, service_url: str) -> None:
        self.clock = clock
        self.org = org
        self.identity = Identity(clock, org)
        self.conduct = Conduct()
        self.minimum_version = MINIMUM_VERSION
        self.runner_version = RUNNER_VERSION
        self.group_limit = GROUP_LIMIT
        self.groups = {1: Group(1, "Default", default=True), 2: Group(2, "ghvm")}
        self._service_url = service_url
        self._runner_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._changed = threading.Condition()
        self._ids = itertools.count(1)
        self._runners: dict[int, Runner] = {}
        self._jobs: dict[int, Job] = {}
        self._closed = False

    def close(self) -> None:
        """End every wait, so that the server can stop."""
        with self._change():
            self._closed = True

    # Registrations

    def register(self, scope: Scope, asked: Registration) -> tuple[Runner, str]:
        """A new runner, offline, and its encoded JIT config. Raises NotFound (the group), NameTaken and GroupFull."""
        with self._change():
            if asked.group_id not in self.groups or (scope.kind == "repos" and asked.group_id != 1):
                raise NotFound
            registered = self.runners(scope)
            if any(runner.name.lower() == asked.name.lower() for runner in registered):
                raise NameTaken(asked.name)
            if sum(runner.group_id == asked.group_id for runner in registered) >= self.group_limit:
                raise GroupFull(asked.group_id, self.group_limit)
            bearer = str(uuid.UUID(bytes=secrets.token_bytes(16)))
            runner = Runner(next(self._ids), scope, asked.name, asked.group_id, asked.labels, bearer)
            self._runners[runner.id] = runner
            if self.conduct.repeats:
                raise NameTaken(asked.name)
        right = jitconfig.encode(runner, self._service_url, asked.work_folder, self._runner_key)
        return runner, right if self.conduct.config is None else self.conduct.config

    def runners(self, scope: Scope | None = None) -> list[Runner]:
        """The runners of a scope, or all, oldest first."""
        with self._changed:
            return [runner for runner in self._runners.values() if scope is None or runner.scope.key == scope.key]

    def runner(self, runner_id: int, scope: Scope | None = None) -> Runner:
        """One runner. Raises NotFound."""
        with self._changed:
            runner = self._runners.get(runner_id)
            if runner is None or (scope is not None and runner.scope.key != scope.key):
                raise NotFound
            return runner

    def remove(self, scope: Scope, runner_id: int) -> None:
        """Remove an idle runner, as its owner may. Raises NotFound and StillBusy."""
        with self._change():
            runner = self.runner(runner_id, scope)
            if runner.busy:
                raise StillBusy(runner.name)
            del self._runners[runner_id]

    def drop(self, runner_id: int) -> None:
        """Remove a runner whatever it does, as the service may; its job fails. Raises NotFound."""
        with self._change():
            self.runner(runner_id)
            self._finish(runner_id, "failure")

    # What listeners ask

    def open_session(self, bearer: str, version: str) -> Runner:
        """The runner of this bearer, now online. Raises NotFound when it is not registered (any more)."""
        with self._change():
            runner = self._owner(bearer)
            return self._update(replace(runner, online=True, os="linux", version=version))

    def disconnect(self, runner_id: int) -> None:
        """The listener is not heard any more: offline, and busy for as long as its job is not settled."""
        with self._change():
            if runner_id in self._runners:
                self._update(replace(self._runners[runner_id], online=False))

    def next_message(self, bearer: str, timeout: float) -> Message:
        """What the listener shall do next; waits up to `timeout` seconds for a job."""
        with contextlib.suppress(NotFound), self._change():
            self._update(replace(self._owner(bearer), online=True))
        idle_seconds = self.conduct.idle_seconds
        with self._changed:
            patience = timeout if idle_seconds is None else min(timeout, idle_seconds)
            found = self._changed.wait_for(lambda: self._message(bearer), patience)
        if found is None and idle_seconds is not None:
            self._forget_idle(bearer)
        return found or Message("none")

    def accept(self, bearer: str, job_id: int) -> None:
        """The listener starts its job. Raises NotFound."""
        with self._change():
            job = self._own_job(bearer, job_id)
            self._jobs[job_id] = replace(job, status="in_progress", started_at=self._now())

    def append_log(self, bearer: str, job_id: int, line: str) -> None:
        """One line that the job printed. Raises NotFound."""
        with self._change():
            self._own_job(bearer, job_id).log.append(line)

    def complete(self, bearer: str, job_id: int, conclusion: Conclusion) -> None:
        """The job's end, and with it the end of the single-use registration. Raises NotFound."""
        with self._change():
            self._own_job(bearer, job_id)
            self._finish(self._owner(bearer).id, conclusion)

    def owner(self, bearer: str) -> Runner:
        """The runner of this bearer. Raises NotFound."""
        with self._changed:
            return self._owner(bearer)

    # Jobs

    def enqueue(self, labels: list[str] | tuple[str, ...], run: str, name: str = "build") -> Job:
        """Queue a job: `run` is shell text, wanted on a runner that has all `labels`."""
        with self._change():
            job = Job(next(self._ids), name, tuple(labels), run, self._now())
            self._jobs[job.id] = job
        return self.job(job.id)

    def job(self, job_id: int) -> Job:
        """One job. Raises NotFound."""
        with self._changed:
            if job_id not in self._jobs:
                raise NotFound
            return self._jobs[job_id]

    def jobs(self) -> list[Job]:
        """All jobs, oldest first."""
        with self._changed:
            return list(self._jobs.values())

    def assign(self, job_id: int, runner_id: int) -> None:
        """Give a queued job to an idle runner by hand: the runner is busy from now on, whether or not it listens.

        Labels are not looked at. Raises NotFound, StillBusy, and ValueError for a job that is not waiting.
        """
        with self._change():
            runner, job = self.runner(runner_id), self.job(job_id)
            if runner.busy:
                raise StillBusy(runner.name)
            if job.status != "queued" or job.runner_id is not None:
                raise ValueError(f"job {job_id} is not waiting for a runner")
            self._assign(job, runner)

    def wait_job(self, job_id: int, until: JobStatus | Callable[[Job], bool], timeout: float = 30) -> Job:
        """The job, once it has a status or satisfies a predicate. Raises TimeoutError after `timeout` seconds."""
        reached = until if callable(until) else lambda job: job.status == until

        def look() -> Job | None:
            job = self.job(job_id)
            return job if reached(job) else None

        return self.wait_for(look, timeout)

    def wait_for(self, look: Callable[[], T | None], timeout: float = 30) -> T:
        """What `look` gives as soon as it gives anything but None. Raises TimeoutError after `timeout` seconds."""
        found: list[T] = []

        def seen() -> bool:
            value = look()
            if value is not None:
                found.append(value)
            return bool(found) or self._closed

        with self._changed:
            self._changed.wait_for(seen, timeout)
        if not found:
            raise TimeoutError(f"not seen within {timeout} seconds")
        return found[0]

    def _forget_idle(self, bearer: str) -> None:
        with contextlib.suppress(NotFound), self._change():
            runner = self._owner(bearer)
            if not runner.busy:
                del self._runners[runner.id]

    # Below, the lock is held

    @contextlib.contextmanager
    def _change(self) -> Iterator[None]:
        """Hold the lock, then hand waiting jobs to idle runners and wake whoever waits."""
        with self._changed:
            try:
                yield
            finally:
                self._match()
                self._changed.notify_all()

    def _match(self) -> None:
        for job in self._jobs.values():
            if job.status == "queued" and job.runner_id is None:
                free = (runner for runner in self._runners.values() if runner.online and not runner.busy)
                runner = next((runner for runner in free if self._fits(runner, job)), None)
                if runner is not None:
                    self._assign(job, runner)

    def _fits(self, runner: Runner, job: Job) -> bool:
        return runner.can_run(job.labels) and runner.is_current(self.minimum_version)

    def _assign(self, job: Job, runner: Runner) -> None:
        self._jobs[job.id] = replace(job, runner_id=runner.id, runner_name=runner.name)
        self._update(replace(runner, busy=True))

    def _message(self, bearer: str) -> Message | None:
        try:
            runner = self._owner(bearer)
        except NotFound:
            if not self.conduct.ghosts:
                return Message("gone")
            return Message("none") if self._closed else None
        if not runner.is_current(self.minimum_version):
            return Message("too-old")
        job = self._job_of(runner.id)
        if job is not None and job.status == "queued":
            return Message("job", job)
        return Message("none") if self._closed else None

    def _finish(self, runner_id: int, conclusion: Conclusion) -> None:
        job = self._job_of(runner_id)
        if job is not None:
            self._jobs[job.id] = replace(job, status="completed", conclusion=conclusion, completed_at=self._now())
        del self._runners[runner_id]

    def _job_of(self, runner_id: int) -> Job | None:
        jobs = self._jobs.values()
        return next((job for job in jobs if job.runner_id == runner_id and job.status != "completed"), None)

    def _owner(self, bearer: str) -> Runner:
        for runner in self._runners.values():
            if secrets.compare_digest(runner.bearer.encode(), bearer.encode()):
                return runner
        raise NotFound

    def _own_job(self, bearer: str, job_id: int) -> Job:
        job = self._job_of(self._owner(bearer).id)
        if job is None or job.id != job_id:
            raise NotFound
        return job

    def _update(self, runner: Runner) -> Runner:
        self._runners[runner.id] = runner
        return runner

    def _now(self) -> str:
        return timestamp(self.clock.wall())
