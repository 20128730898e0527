"""An empty file system for what one machine writes."""

import os

from ghrunner_vm.images.build.ext4.disk import Disk
from ghrunner_vm.images.build.ext4.finish import finish
from ghrunner_vm.images.build.ext4.layout import Label
from ghrunner_vm.images.build.tree import Tree

_LABEL = b"ghvm-scratch".ljust(16, b"\0")


def format_empty(descriptor: int, size: int) -> None:
    """Make the empty file an ext4 of `size` bytes. It stays sparse: only what describes its groups is written."""
    finish(Disk(descriptor, size), Tree(), Label(_LABEL, os.urandom(16), 0))
