"""`ghvm sim`: the embedded GitHub from the command line."""

import click

from ghrunner_vm.commands.sim.image import image
from ghrunner_vm.commands.sim.job import job
from ghrunner_vm.commands.sim.serve import serve


@click.group()
def sim() -> None:
    """Try ghvm without GitHub: an embedded stand-in on this machine."""


sim.add_command(serve)
sim.add_command(image)
sim.add_command(job)
