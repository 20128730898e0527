"""The instance spec: the JSON file that says what virtual machine a label gets."""

import json
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, NoReturn

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)

from ghrunner_vm.egress import FORMS as DESTINATION_FORMS
from ghrunner_vm.egress import Mode, parse
from ghrunner_vm.errors import UsageError
from ghrunner_vm.suggest import did_you_mean, first_fault
from ghrunner_vm.units import format_size, parse_size

MAX_JOB_SECONDS = 5 * 24 * 3600
"""GitHub ends every job after five days."""
_MAX_FILE = 1 << 20
_MAX_LABELS = 100
_MIB = 1 << 20
_SIZE_FORMS = 'text, a whole number of MiB with M, G or T, as in "512M" or "4G"'
_SIZE = re.compile(r"^\s*\d{1,9}(\.\d{1,3})?\s*[MGT](i?B)?\s*$", re.IGNORECASE)
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_IMAGE_FORMS = "1 to 128 letters, digits, dots, underscores and hyphens, the first a letter or digit"
_LABEL_FORMS = "1 to 256 printable characters, no comma, no space at an end"


def _size(value: object) -> int:
    if isinstance(value, str) and _SIZE.search(value):
        size = parse_size(value)
        if size >= _MIB and size % _MIB == 0:
            return size
    raise ValueError(f"must be {_SIZE_FORMS}")


def _label(text: str) -> str:
    if not 1 <= len(text) <= 256 or "," in text or not text.isprintable() or text != text.strip():
        raise ValueError(f"must be {_LABEL_FORMS}")
    return text


def _image(text: str) -> str:
    if not _IMAGE.fullmatch(text):
        raise ValueError(f"must be {_IMAGE_FORMS}")
    return text


# What a schema can say of a value; the validators say the rest.
_LABEL_SCHEMA = {"type": "string", "minLength": 1, "maxLength": 256, "pattern": r"^[^,\s]([^,]*[^,\s])?$"}
_IMAGE_SCHEMA = {"type": "string", "pattern": f"^{_IMAGE.pattern}$"}
_SIZE_SCHEMA = {"type": "string", "pattern": r"^\s*[0-9]{1,9}(\.[0-9]{1,3})?\s*[MGTmgt]([iI]?[bB])?\s*$"}


def _destinations(values: tuple[str, ...]) -> tuple[str, ...]:
    parse(value for value in values if not value.startswith("@"))
    return values


Destinations = Annotated[tuple[str, ...], Field(strict=False, max_length=1000), AfterValidator(_destinations)]
Label = Annotated[str, AfterValidator(_label), WithJsonSchema(_LABEL_SCHEMA)]
Engine = Literal["qemu", "firecracker"]
Image = Annotated[str, AfterValidator(_image), WithJsonSchema(_IMAGE_SCHEMA)]
Size = Annotated[int, BeforeValidator(_size), WithJsonSchema(_SIZE_SCHEMA)]


def _kebab(name: str) -> str:
    return name.replace("_", "-")


class Spec(BaseModel):
    """What a virtual machine looks like and how long it may live. Sizes are bytes, times are seconds.

    In the file a key such as `cpu_cores` is `cpu-cores`. Each description says what is allowed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, alias_generator=_kebab)

    label: Label = Field(description=_LABEL_FORMS)
    image: Image = Field(description=_IMAGE_FORMS)
    arch: Literal["x86_64", "aarch64"] = Field(description="x86_64 or aarch64")
    cpu_cores: int = Field(ge=1, le=1024, description="a whole number, 1 or more")
    ram: Size = Field(description=_SIZE_FORMS)
    root_disk: Size = Field(description=_SIZE_FORMS)
    timeout_seconds: int = Field(ge=1, le=MAX_JOB_SECONDS, description="seconds, 1 to 432000 (5 days)")
    labels: Annotated[tuple[Label, ...], Field(strict=False)] = Field(
        (), description=f"a list of at most {_MAX_LABELS - 1} further labels, none of them twice"
    )
    boot_timeout_seconds: int = Field(300, ge=1, le=86_400, description="seconds, 1 to 86400 (a day)")
    idle_timeout_seconds: int | None = Field(
        None, ge=1, le=MAX_JOB_SECONDS, description="seconds, 1 to 432000 (5 days), or null for no limit"
    )
    credential: Literal["url", "direct", "both"] = Field("both", description="url, direct or both")
    egress: Mode | None = Field(None, description="internet, listed, or null for the setting")
    egress_allow: Destinations = Field((), description=f"a list beside the setting's, each {DESTINATION_FORMS}")
    egress_deny: Destinations = Field((), description=f"a list beside the setting's, each {DESTINATION_FORMS}")
    engine: Engine = Field("qemu", description="qemu or firecracker")
    root_disk_in: Literal["disk", "ram"] = Field(
        "disk", description="disk, or ram on Firecracker: what the guest writes takes root-disk of memory besides ram"
    )

    @field_validator("labels")
    @classmethod
    def _distinct(cls, labels: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if len(labels) >= _MAX_LABELS:
            raise ValueError(f"must hold at most {_MAX_LABELS - 1} labels")
        seen = {str(info.data.get("label", "")).casefold()}
        for label in labels:
            if label.casefold() in seen:
                raise ValueError(f"must not name {label!r} twice (case does not matter to GitHub)")
            seen.add(label.casefold())
        return labels

    @field_validator("root_disk_in")
    @classmethod
    def _engine_can(cls, where: str, info: ValidationInfo) -> str:
        # Fields are checked in their order.
        if where == "ram" and info.data.get("engine") == "qemu":
            raise ValueError('must be "disk" with the engine qemu')
        return where

    @property
    def memory(self) -> int:
        """Bytes of memory that the machine has, a layer for what it writes included."""
        return self.ram + (self.root_disk if self.root_disk_in == "ram" else 0)

    @property
    def disk(self) -> int:
        """Bytes that it may write to the host's disk."""
        return self.root_disk if self.root_disk_in == "disk" else 0

    @property
    def all_labels(self) -> tuple[str, ...]:
        """Exactly what the runner is registered with: GitHub adds no label of its own."""
        return (self.label, *self.labels)


def schema() -> dict[str, object]:
    """The JSON Schema of a spec, for editors. It lets a few things pass that `load` does not: see its validators."""
    described = Spec.model_json_schema()
    described["title"] = "ghvm instance spec"
    return described


def check_labels(labels: Sequence[str]) -> tuple[str, ...]:
    """Labels from a command line. Raises UsageError."""
    seen: set[str] = set()
    for label in labels:
        try:
            _label(label)
        except ValueError as error:
            raise UsageError(f"{label[:200]!r} cannot be a label", resolution=f"Allowed: {_LABEL_FORMS}.") from error
        if label.casefold() in seen:
            raise UsageError(f"the label {label!r} is given twice", resolution="Case does not matter to GitHub.")
        seen.add(label.casefold())
    if len(seen) > _MAX_LABELS:
        raise UsageError(f"{len(seen)} labels are given", resolution=f"A runner has at most {_MAX_LABELS}.")
    return tuple(labels)


def load(path: Path) -> Spec:
    """The spec in a file. Raises UsageError that names the file, the key, the value and what is allowed."""
    document = _parse(path, _read(path))
    try:
        return Spec.model_validate(document)
    except ValidationError as error:
        raise _refused(path, document, error) from error


def check_host(spec: Spec, *, cores: int, ram_bytes: int) -> str | None:
    """A warning when the host has fewer cores than the spec asks for. Raises UsageError when it has less RAM."""
    if spec.memory > ram_bytes:
        raise UsageError(
            f"the spec asks for {format_size(spec.memory)} of RAM, this host has {format_size(ram_bytes)}",
            resolution='Lower "ram" in the spec, or run it on a larger host.',
        )
    if spec.cpu_cores > cores:
        return f"the spec asks for {spec.cpu_cores} cores, this host has {cores}: the guest will be slow"
    return None


def _read(path: Path) -> str:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UsageError(f"{path}: not a file", resolution="Name a spec file.")
        with path.open("rb") as file:
            content = file.read(_MAX_FILE + 1)
    except OSError as error:
        resolution = "Check the path and the file's mode."
        raise UsageError(f"{path}: cannot be read: {error.strerror}", resolution=resolution) from error
    if len(content) > _MAX_FILE:
        raise UsageError(f"{path}: larger than 1 MiB", resolution="Check that this is a spec file.")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        resolution = "Save the file as UTF-8."
        raise UsageError(f"{path}: not UTF-8 at byte {error.start}", resolution=resolution) from error


def _parse(path: Path, text: str) -> dict[str, object]:
    try:
        document: object = json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        resolution = "Correct the JSON there; a comma may be missing or too many."
        raise UsageError(f"{path}: not JSON: {error.msg} at {where}", resolution=resolution) from error
    except (ValueError, RecursionError) as error:
        resolution = "Correct the file; the examples in instances/ show the form."
        raise UsageError(f"{path}: {str(error)[:200]}", resolution=resolution) from error
    if not isinstance(document, dict):
        raise UsageError(f"{path}: not a JSON object", resolution='Write the spec as { "label": …, … }.')
    return document


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    document: dict[str, object] = {}
    for key, value in pairs:
        if key in document:
            raise ValueError(f"the key {key!r} is there twice")
        document[key] = value
    return document


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _refused(path: Path, document: dict[str, object], error: ValidationError) -> UsageError:
    fault = first_fault(error)
    known = {field.alias or name: field for name, field in Spec.model_fields.items()}
    if fault.kind == "extra_forbidden":
        return UsageError(
            f"{path}: unknown key {fault.key!r}", resolution=did_you_mean(_kebab(fault.key.lower()), known)
        )
    key = fault.key.partition(".")[0]
    allowed = f"Allowed: {known[key].description}."
    if key not in document:
        return UsageError(f'{path}: the key "{key}" is missing', resolution=allowed)
    value = json.dumps(document[key], ensure_ascii=False)[:200]
    return UsageError(f'{path}: "{key}": {value} cannot be used', details=f"It {fault.why}.", resolution=allowed)
