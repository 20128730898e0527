"""`ghvm images`: the image cache."""

import click

from ghrunner_vm.commands.images.pull import pull


@click.group()
def images() -> None:
    """Fetch the images that virtual machines boot."""


images.add_command(pull)
