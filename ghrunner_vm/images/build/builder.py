"""What a container builder must be able to do, and what it is told by its environment."""

import os
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field

from ghrunner_vm import process

BUILD_SECONDS = 2 * 3600.0
"""Kernels, compilers and toolchains come from slow mirrors."""
QUICK_SECONDS = 120.0
"""For what moves no data; the rootless ones set up namespaces and their storage the first time."""
PATIENCE_SECONDS = 300.0
"""Until the next byte of a container's files: a layer on a slow disk is copied before the first one."""

_OURS = re.compile(
    r"(XDG|DOCKER|BUILDKIT|BUILDX|CONTAINERS?|BUILDAH|PODMAN|STORAGE|REGISTRY)_\w+"
    r"|(https?|ftp|all|no)_proxy|USER|LOGNAME|LANG|SSH_AUTH_SOCK|SSL_CERT_(FILE|DIR)|DBUS_SESSION_BUS_ADDRESS",
    re.IGNORECASE,
)
_PLATFORMS = {"x86_64": "linux/amd64", "aarch64": "linux/arm64"}

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Recipe:
    """What is to be built: a directory, the Dockerfile in or outside it, and for which architecture."""

    context: Path
    dockerfile: Path
    arch: str

    @property
    def options(self) -> tuple[str, ...]:
        """What docker, podman and buildah call it."""
        return ("--platform", _PLATFORMS[self.arch], "--file", str(self.dockerfile), str(self.context))


class ImageConfig(BaseModel):
    """What an image's configuration says about the programs that run in it; the OCI image specification's names."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    environment: tuple[str, ...] | None = Field(default=None, alias="Env")
    directory: str = Field(default="", alias="WorkingDir")


class Builder(Protocol):
    """A program that makes a container of a Dockerfile. All calls block, with deadlines."""

    @property
    def name(self) -> str:
        """The program."""

    @property
    def left(self) -> str | None:
        """What stays behind in the builder's own storage after a build, in words; None if nothing does."""

    def check(self) -> None:
        """Raises GhvmError, saying why, unless it works here."""

    def build(self, recipe: Recipe, iidfile: Path, tell: Tell) -> None:
        """Build, and write the image's id. Raises CommandFailed."""

    def config(self, image: str) -> ImageConfig:
        """The image's configuration."""

    def create(self, image: str, container: str) -> None:
        """Make a container of this name that does not run."""

    def export(self, container: str) -> AbstractContextManager[BufferedReader]:
        """Its files as a tar stream; see output.streamed."""

    def remove(self, container: str) -> None:
        """Remove a container, if there is one of this name."""

    def forget(self, image: str) -> None:
        """Remove an image that nobody can want again."""


def environment() -> Mapping[str, str]:
    """What builders go by: where their storage, daemon, registries and proxies are. None of it is ghvm's."""
    return {name: value for name, value in os.environ.items() if _OURS.fullmatch(name)}


def ask(*argv: str) -> str:
    """What a builder answers at once. Raises CommandMissing, CommandFailed, or InfrastructureError."""
    return process.run(argv, timeout=QUICK_SECONDS, env=environment())
