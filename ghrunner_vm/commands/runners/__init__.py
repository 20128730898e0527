"""`ghvm runners`: what is registered with GitHub."""

import click

from ghrunner_vm.commands.runners.listing import list_runners
from ghrunner_vm.commands.runners.prune import prune


@click.group()
def runners() -> None:
    """See and clear up what is registered with GitHub."""


runners.add_command(list_runners)
runners.add_command(prune)
