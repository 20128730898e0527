"""`ghvm spec`: the instance spec."""

import click

from ghrunner_vm.commands.spec.check import check
from ghrunner_vm.commands.spec.schema import schema


@click.group()
def spec() -> None:
    """Check specs, and describe them to editors."""


for command in (check, schema):
    spec.add_command(command)
