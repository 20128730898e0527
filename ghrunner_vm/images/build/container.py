"""A Dockerfile's result as a stream: built by docker, podman or buildah, and nothing of it left behind."""

import contextlib
import re
import secrets
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from pydantic import ValidationError

from ghrunner_vm import process
from ghrunner_vm.console import plain
from ghrunner_vm.errors import GhvmError, InfrastructureError, UsageError
from ghrunner_vm.images.build.buildah import Buildah
from ghrunner_vm.images.build.builder import Builder, ImageConfig, Recipe
from ghrunner_vm.images.build.docker import Docker
from ghrunner_vm.process import output

BUILDERS = ("docker", "podman", "buildah")
"""In the order in which they are tried."""

_IMAGE_ID = re.compile(r"(sha256:)?[0-9a-f]{64}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=[^\0\n]*")


class BuildFailed(GhvmError):
    """A Dockerfile could not be built."""


@dataclass(frozen=True)
class Exported:
    """A container's files, and what its image says of the programs in it."""

    tar: BufferedReader
    """A pipe, to be read to its end, which raises CommandFailed if the builder failed: no part passes for the whole.

    A tar's own end mark comes before that end.
    """
    environment: tuple[str, ...]
    """Each `NAME=value`, on one line."""
    directory: str
    """An absolute path."""


def choose(name: str | None) -> Builder:
    """The builder of this name, or the first one that works here. Raises UsageError, which says what to do."""
    if name is not None:
        return _named(name)
    found: list[str] = []
    for builder in map(_builder, BUILDERS):
        try:
            builder.check()
        except GhvmError as error:
            found.append(f"{builder.name}: {_reason(error)}")
        else:
            return builder
    raise UsageError(
        "No container builder works here",
        details="\n".join(found),
        resolution="Install podman or buildah, as with `apt-get install buildah`, or start Docker's daemon.",
    )


@contextlib.contextmanager
def exported(
    builder: Builder, context: Path, *, dockerfile: Path | None, arch: str, narrate: Callable[[str], None]
) -> Iterator[Exported]:
    """Build the Dockerfile of `context` for x86_64 or aarch64; yields the files. `narrate` hears the builder's lines.

    In the main thread SIGTERM and SIGHUP end it as Ctrl-C does. Raises UsageError, BuildFailed and InfrastructureError.
    """
    recipe = Recipe(context, _dockerfile(context, dockerfile), arch)
    with output.interruptible(), contextlib.ExitStack() as stack:
        image = _build(builder, recipe, narrate)
        stack.callback(_surely, lambda: builder.forget(image), narrate)
        config = _config(builder, image)
        container = f"ghvm-build-{secrets.token_hex(4)}"
        # Before it is made: an interrupted `create` may have made it.
        stack.callback(_surely, lambda: builder.remove(container), narrate)
        builder.create(image, container)
        tar = stack.enter_context(builder.export(container))
        yield Exported(tar, config.environment or (), config.directory or "/")
        if builder.left is not None:
            narrate(builder.left)


def _builder(name: str) -> Builder:
    return Buildah() if name == "buildah" else Docker(name)


def _named(name: str) -> Builder:
    if name not in BUILDERS:
        raise UsageError(f"{name!r} is no container builder", resolution=f"Choose one of {', '.join(BUILDERS)}.")
    builder = _builder(name)
    try:
        builder.check()
    except GhvmError as error:
        raise UsageError(
            f"{name} does not work here",
            details=_reason(error),
            resolution=f"Install {name} or set it right, or leave --builder out to take another one.",
        ) from error
    return builder


def _reason(error: GhvmError) -> str:
    """What a person must know, in one line: the last one that the builder said."""
    said = error.output if isinstance(error, process.CommandFailed) else ""
    lines = [line for line in plain(said).splitlines() if line.strip()]
    return (lines[-1] if lines else error.brief)[:500]


def _dockerfile(context: Path, given: Path | None) -> Path:
    for path in (given,) if given is not None else (context / "Dockerfile", context / "Containerfile"):
        if path.is_file():
            return path
    raise UsageError(
        f"There is no Dockerfile in {context}" if given is None else f"{given} is no file",
        resolution=f"Write one to begin with: ghvm images init {context}",
    )


def _build(builder: Builder, recipe: Recipe, narrate: Callable[[str], None]) -> str:
    with tempfile.TemporaryDirectory(prefix="ghvm-build-") as directory:
        iidfile = Path(directory) / "id"
        try:
            builder.build(recipe, iidfile, lambda line: narrate(plain(line)))
        except process.CommandFailed as error:
            raise _failed(builder, recipe, plain(error.output)) from error
        image = iidfile.read_text(encoding="ascii", errors="replace").strip() if iidfile.exists() else ""
    if _IMAGE_ID.fullmatch(image) is None:
        raise InfrastructureError(f"{builder.name} did not say what it has built", details=image[:200])
    return image


def _failed(builder: Builder, recipe: Recipe, said: str) -> BuildFailed:
    resolution = "Correct the Dockerfile at the step that failed, and run it again."
    if "exec format error" in said.lower():
        resolution = f"This host runs no programs for {recipe.arch}: install qemu-user-static and binfmt-support."
    return BuildFailed(f"{builder.name} could not build {recipe.dockerfile}", details=said, resolution=resolution)


def _config(builder: Builder, image: str) -> ImageConfig:
    try:
        config = builder.config(image)
    except (ValidationError, ValueError, KeyError, TypeError) as error:
        raise InfrastructureError(f"{builder.name} describes its image in a way unknown to ghvm") from error
    for variable in config.environment or ():
        if _VARIABLE.fullmatch(variable) is None:
            raise UsageError(
                f"The Dockerfile's ENV {variable.partition('=')[0]} cannot be given to the runner",
                details="A name consists of letters, digits and underscores; a value is one line.",
                resolution="Change or remove it.",
            )
    return config


def _surely(tidy: Callable[[], None], narrate: Callable[[str], None]) -> None:
    """Something that must not hide how the build itself ended."""
    try:
        tidy()
    except GhvmError as error:
        narrate(f"not removed: {error.details or error.brief}")
