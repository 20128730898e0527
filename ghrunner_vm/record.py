"""The record of a run, `run.json`: written by the run, read with suspicion by everybody else."""

import json
from datetime import date
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ghrunner_vm import process
from ghrunner_vm.files import read_own

RECORD = "run.json"
SCHEMA = 1
_RECORD_LIMIT = 1 << 20
_PID_LIMIT = 1 << 22  # PID_MAX_LIMIT in Linux


class _Own(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, alias_generator=lambda name: name.replace("_", "-")
    )

    @classmethod
    def of(cls, **values: object) -> Self:
        """From Python names instead of the file's."""
        return cls.model_validate({name.replace("_", "-"): value for name, value in values.items()})


class ProcessRecord(_Own):
    """A process, named for good by its id, its start in clock ticks and the boot."""

    pid: int = Field(gt=1, le=_PID_LIMIT)
    started: int = Field(ge=0)

    def alive(self) -> bool:
        """Whether that very process still runs, provided that the host has not been booted since."""
        return process.start_time(self.pid) == self.started


class RunnerRecord(_Own):
    """The registration. It is written before GitHub is asked, so `id` is unknown at first."""

    name: str = Field(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\z")
    api_url: str
    scope: str
    asked: float
    """Seconds since 1970 at which GitHub was asked."""
    id: int | None = None
    state: Literal["asked", "registered", "released"] = "asked"


class MachineRecord(_Own):
    """The virtual machine as it was launched; sizes in bytes."""

    accelerator: str
    cores: int
    ram: int
    root_disk: int


class Peaks(_Own):
    """The most that a machine has used so far."""

    cpu_seconds: float = 0.0
    """Seconds of processor time, of the VMM and its guest together."""
    memory: int = 0
    """Bytes of the host's memory."""
    disk: int = 0
    """Bytes that the throw-away disk takes on the host."""


class RefusedRecord(_Own):
    """What a machine was kept from reaching."""

    packets: int
    spoofed: int
    destinations: dict[str, int]
    """Such as `tcp 10.0.0.5:22`, with the number of packets."""


class FailureRecord(_Own):
    """An error in its three parts, its class, and the exit code it led to."""

    kind: str
    brief: str
    details: str | None = None
    resolution: str | None = None
    exit_code: int


class RunRecord(_Own):
    """What everybody may know of a run."""

    schema_version: Literal[1] = 1
    id: str
    boot_id: str
    supervisor: ProcessRecord
    vmm: ProcessRecord | None = None
    runner: RunnerRecord | None = None
    label: str
    trial: bool = False
    """A registration for a look: it has no machine, and no socket to ask it by."""
    image: str
    commit: str | None = None
    runner_until: date | None = None
    """The first day on which the runner in the image is too old, if that is known."""
    machine: MachineRecord | None = None
    phase: str = "preparing"
    since: float
    """Seconds since 1970 at which the phase began."""
    created: float
    phases: dict[str, float] = Field(default_factory=dict)
    """When each phase was first entered, in seconds since 1970."""
    job: str | None = None
    """What the guest calls its job."""
    job_result: str | None = None
    peaks: Peaks | None = None
    refused: RefusedRecord | None = None
    outcome: str | None = None
    ended: float | None = None
    cause: str | None = None
    """What the guest, its listener or its machine did that ended the run."""
    failure: FailureRecord | None = None
    """Why the run could not go on, if an error ended it."""
    ssh_port: int | None = None
    ssh_host_key: str | None = None
    """As the guest's agent told it: a type and a key in base64."""


def encode_record(record: RunRecord) -> bytes:
    """The record as it stands in the file."""
    return record.model_dump_json(by_alias=True, indent=2).encode()


def read_record(path: Path) -> RunRecord | None:
    """The record in the directory of a run; None if missing, no plain file, another user's, too large or no record.

    A record of another run, or of a registration under another name than the run's, is none.
    """
    content = read_own(path / RECORD, _RECORD_LIMIT)
    if content is None:
        return None
    try:
        record = RunRecord.model_validate_json(content)
    except ValidationError:
        return None
    names = {record.id} if record.runner is None else {record.id, record.runner.name}
    return record if names == {path.name} else None


def is_newer(path: Path) -> bool:
    """Whether the record was written by a ghvm that is newer than this one, which cannot read it."""
    try:
        document = json.loads(read_own(path / RECORD, _RECORD_LIMIT) or b"")
        version = document["schema-version"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return False
    return isinstance(version, int) and version > SCHEMA
