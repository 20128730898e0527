"""`ghvm sim image`: the tiny image of the demo, as a bundle for an image server."""

import shutil
from pathlib import Path

import click
import platformdirs

from ghrunner_vm.console import Console
from ghrunner_vm.simulator.tiny import image as tiny


@click.command(
    epilog="""\b
Example:
  ghvm sim image ./build && ghvm serve-images ./build
"""
)
@click.argument("directory", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--arch", type=click.Choice(tiny.ARCHITECTURES), default="x86_64", show_default=True, help="What it is made for."
)
@click.pass_context
def image(context: click.Context, directory: Path, arch: str) -> None:
    """Put the tiny image of the demo into DIR: a kernel and busybox of this distribution, and the agent."""
    console = context.find_object(Console) or Console()
    console.say("building the tiny image, if it is not there yet")
    bundle = tiny.build(platformdirs.user_cache_path("ghvm") / "demo", arch)
    shutil.copytree(bundle, directory, dirs_exist_ok=True)
    name = tiny.name(arch)
    console.result(f"the image {name} is in {directory}; to serve it:\n\n    ghvm serve-images {directory}\n")
