"""`ghvm images init`: a Dockerfile to begin with."""

import shlex
from pathlib import Path

import click

from ghrunner_vm.console import Console
from ghrunner_vm.errors import PermanentError, UsageError, is_disk_full
from ghrunner_vm.images.build import starter

pass_console = click.make_pass_decorator(Console, ensure=True)


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--distribution",
    type=click.Choice(starter.DISTRIBUTIONS),
    default=starter.DISTRIBUTIONS[0],
    show_default=True,
    help="What the image is based on.",
)
@pass_console
def init(console: Console, directory: Path, distribution: str) -> None:
    """Write a Dockerfile into DIR that is ready to be built, and says what each part of it is for.

    \b
    Example:
      ghvm images init ./image && ghvm images build ./image
    """
    try:
        for path in starter.write(directory, distribution):
            console.result(str(path))
    except FileExistsError as error:
        raise UsageError(
            f"{error.filename} is there already", resolution="Edit it, or begin in another directory."
        ) from error
    except OSError as error:
        if is_disk_full(error):
            raise
        raise PermanentError(
            f"{error.filename} cannot be written: {error.strerror}",
            resolution="Choose another directory, or run it as a user who may write there.",
        ) from error
    console.say(f"next: put in what your jobs need, then: ghvm images build {shlex.quote(str(directory))}")
