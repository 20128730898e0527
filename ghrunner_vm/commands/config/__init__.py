"""`ghvm config`: the settings, and where each comes from."""

import click

from ghrunner_vm.commands.config.check import check
from ghrunner_vm.commands.config.init import init
from ghrunner_vm.commands.config.path import path
from ghrunner_vm.commands.config.show import show


@click.group()
def config() -> None:
    """Show, check and write the settings that all commands share."""


for command in (show, path, check, init):
    config.add_command(command)
