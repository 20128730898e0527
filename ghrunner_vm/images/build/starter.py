"""The Dockerfile that somebody begins with."""

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

DISTRIBUTIONS = ("debian-12", "ubuntu-24.04")
"""Those that there is a Dockerfile for, the default first."""


def write(directory: Path, distribution: str) -> Iterator[Path]:
    """Write what `directory` lacks of a Dockerfile and a .dockerignore; yields what was written.

    Raises FileExistsError before anything else if it has a Dockerfile, and OSError.
    """
    templates = files("ghrunner_vm.images.build").joinpath("templates")
    directory.mkdir(parents=True, exist_ok=True)
    yield _new(directory / "Dockerfile", templates.joinpath(f"{distribution}.Dockerfile").read_text(encoding="utf-8"))
    ignored = directory / ".dockerignore"
    if not ignored.exists():
        yield _new(ignored, templates.joinpath("dockerignore").read_text(encoding="utf-8"))


def _new(path: Path, text: str) -> Path:
    with path.open("x", encoding="utf-8") as file:  # a link that leads nowhere is something that is there, too
        file.write(text)
    return path
