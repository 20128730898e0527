"""`ghvm images`: the image cache, and what is put on an image server."""

import click

from ghrunner_vm.commands.images.build import build
from ghrunner_vm.commands.images.init import init
from ghrunner_vm.commands.images.inspect import inspect
from ghrunner_vm.commands.images.keygen import keygen
from ghrunner_vm.commands.images.list import list_
from ghrunner_vm.commands.images.prune import prune
from ghrunner_vm.commands.images.publish import publish
from ghrunner_vm.commands.images.pull import pull
from ghrunner_vm.commands.images.sign import sign
from ghrunner_vm.commands.images.verify import verify


@click.group()
def images() -> None:
    """Build, sign and publish the images that virtual machines boot; fetch, show and remove them."""


for command in (init, build, pull, list_, inspect, verify, prune, keygen, sign, publish):
    images.add_command(command)
