"""The manifest of a bundle: what an image consists of and how to boot it."""

import re
from datetime import date
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

MAX_MANIFEST_BYTES = 1 << 20
MAX_ARTIFACT_BYTES = 1 << 40
RESERVED = frozenset({"manifest.json", "manifest.signed", "manifest.sig", "verified.json", "lease"})
"""Names that the store uses beside the artifacts of an image."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def check_name(text: str) -> str:
    """An image name, commit or artifact name that is safe as one part of a path or URL; raises ValueError."""
    if _NAME.fullmatch(text) is None:
        raise ValueError(f"{text[:200]!r} is not a name: use letters, digits, '.', '_' and '-', 128 at most")
    return text


Name = Annotated[str, AfterValidator(check_name)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Role = Literal["disk", "kernel", "initrd", "base", "vmlinux", "kernel-config"]
"""`base` is the disk's content as a squashfs, for engines that put a layer of their own above it; `vmlinux` the kernel
uncompressed, for those that start it without any firmware."""
_ONCE: tuple[Role, ...] = ("base", "vmlinux", "kernel-config")
Word = Annotated[str, Field(pattern=r"^[\x21-\x7e]{1,255}$")]
Arch = Literal["x86_64", "aarch64"]
Engine = Literal["qemu", "firecracker"]


class OwnFile(BaseModel):
    """A JSON file that ghvm itself defines: kebab-case keys, exact types, nothing unknown."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        populate_by_name=True,
        alias_generator=lambda field: field.replace("_", "-"),
    )

    def to_json(self) -> bytes:
        """The file's content."""
        return self.model_dump_json(by_alias=True, indent=2).encode() + b"\n"


class Artifact(OwnFile):
    """One file of an image: bytes and hash of its uncompressed form. A size of None is not known before the pull."""

    size: Annotated[int, Field(ge=0, le=MAX_ARTIFACT_BYTES)] | None
    sha256: Sha256
    role: Role


class Boot(OwnFile):
    """How to boot: a kernel and an initrd by artifact name. No kernel means the firmware boots the disk."""

    kernel: Name | None = None
    initrd: Name | None = None
    cmdline: Annotated[str, Field(max_length=2000, pattern=r"^[\x20-\x7e]*$")] | None = None


class Manifest(OwnFile):
    """What a bundle consists of. A plain disk is one artifact, no agent, and an architecture that nobody told."""

    schema_version: Literal[1] = Field(alias="schema")
    name: Name
    arch: Arch | None
    engine: tuple[Engine, ...] = Field(min_length=1)
    agent: Literal[1] | None
    runner_version: Annotated[str, Field(pattern=r"^[0-9]{1,5}(\.[0-9]{1,5}){1,3}$")] | None
    runner_date: date | None = None
    """The day on which this version of the runner was built."""
    kernel_version: Word | None = None
    packages: Annotated[dict[Word, Word], Field(max_length=20_000)] = Field(default_factory=dict)
    """The distribution's packages in it, and their versions."""
    boot: Boot
    artifacts: Annotated[dict[Name, Artifact], Field(min_length=1, max_length=16)]

    @classmethod
    def parse(cls, content: bytes) -> Self:
        """A manifest from the bytes of its file; raises ValueError with what is wrong."""
        if len(content) > MAX_MANIFEST_BYTES:
            raise ValueError(f"a manifest has at most {MAX_MANIFEST_BYTES} bytes")
        return cls.model_validate_json(content)

    @classmethod
    def plain(cls, name: str, *, sha256: str, size: int | None = None) -> Self:
        """The manifest of a single disk, as image servers without bundles publish it; raises ValueError."""
        return cls(
            schema_version=1,
            name=name,
            arch=None,
            engine=("qemu",),
            agent=None,
            runner_version=None,
            boot=Boot(),
            artifacts={f"{name}.qcow2": Artifact(size=size, sha256=sha256, role="disk")},
        )

    @property
    def disk(self) -> str:
        """The name of the disk artifact of an image for QEMU."""
        return self._of_role("disk")[0]

    def only(self, role: Role) -> str | None:
        """The name of the one artifact with this role; None if there is none."""
        return next(iter(self._of_role(role)), None)

    @property
    def total_size(self) -> int | None:
        """Bytes of all artifacts, or None if a size is not known."""
        sizes = [artifact.size for artifact in self.artifacts.values()]
        known = [size for size in sizes if size is not None]
        return sum(known) if len(known) == len(sizes) else None

    def same_content(self, other: "Manifest") -> bool:
        """Whether both describe the same machine. Sizes do not count: they follow from the hashes, if they are told."""
        return self._without_sizes() == other._without_sizes()

    def _without_sizes(self) -> "Manifest":
        artifacts = {name: artifact.model_copy(update={"size": None}) for name, artifact in self.artifacts.items()}
        return self.model_copy(update={"artifacts": artifacts})

    @model_validator(mode="after")
    def _check_artifact_names(self) -> Self:
        for artifact in self.artifacts:
            if not artifact.startswith(f"{self.name}.") or artifact in RESERVED:
                raise ValueError(f"artifact {artifact!r}: an artifact is called {self.name + '.SUFFIX'!r}")
        return self

    @model_validator(mode="after")
    def _check_boot(self) -> Self:
        if len(self._of_role("disk")) != ("qemu" in self.engine):
            raise ValueError("exactly one artifact must have the role 'disk', or none in an image that is not for qemu")
        if "qemu" not in self.engine and not (self.only("base") and self.only("vmlinux")):
            raise ValueError("an image for firecracker must have artifacts with the roles 'base' and 'vmlinux'")
        if twice := [role for role in _ONCE if len(self._of_role(role)) > 1]:
            raise ValueError(f"at most one artifact may have the role {twice[0]!r}")
        if self._of_role("kernel") != _listed(self.boot.kernel) or self._of_role("initrd") != _listed(self.boot.initrd):
            raise ValueError("boot.kernel and boot.initrd must name the artifacts with these roles")
        if self.boot.kernel is None and (self.boot.initrd is not None or self.boot.cmdline is not None):
            raise ValueError("boot.initrd and boot.cmdline need boot.kernel")
        return self

    def _of_role(self, role: Role) -> list[str]:
        return [name for name, artifact in self.artifacts.items() if artifact.role == role]


def _listed(name: str | None) -> list[str]:
    return [] if name is None else [name]
