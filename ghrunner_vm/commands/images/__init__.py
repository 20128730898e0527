"""`ghvm images`: the image cache."""

import click

from ghrunner_vm.commands.images.list import list_
from ghrunner_vm.commands.images.prune import prune
from ghrunner_vm.commands.images.pull import pull


@click.group()
def images() -> None:
    """Fetch, show and remove the images that virtual machines boot."""


for command in (pull, list_, prune):
    images.add_command(command)
