"""`ghvm spec check`: can these specs be used here?"""

from pathlib import Path

import click

from ghrunner_vm import app, config, spec
from ghrunner_vm.commands.options import PATH
from ghrunner_vm.console import Console
from ghrunner_vm.errors import GhvmError, UsageError
from ghrunner_vm.units import format_seconds, format_size


@click.command()
@click.argument("files", metavar="SPEC…", type=PATH, nargs=-1, required=True)
def check(files: tuple[Path, ...]) -> None:
    """Check each SPEC: its keys, its values, and whether this host can carry its machine. All are checked.

    \b
    Example:
      ghvm spec check instances/*.json
    """
    console = Console()
    bad = [file for file in files if not _good(console, file)]
    if bad:
        raise UsageError(f"{len(bad)} of {len(files)} cannot be used", resolution="See above.")


def _good(console: Console, file: Path) -> bool:
    try:
        described = spec.load(file)
        app.egress_policy(config.load({}), described)
        app.check_host(described, lambda words: console.warn(f"{file}: {words}"))
    except GhvmError as error:
        console.error(error)
        return False
    machine = f"{described.cpu_cores} cores, {format_size(described.ram)}, disk {format_size(described.root_disk)}"
    limit = f"{format_seconds(described.timeout_seconds)} a job"
    console.result(f"{file}: {described.label}: {described.image} ({described.arch}), {machine}, {limit}")
    return True
