"""`ghvm images keygen`: a key to sign images with."""

from pathlib import Path

import click

from ghrunner_vm.commands.options import PATH
from ghrunner_vm.console import Console
from ghrunner_vm.images.signing import make_key


@click.command()
@click.argument("path", metavar="PATH", type=PATH)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def keygen(path: Path, as_json: bool) -> None:
    """Make a key to sign images with: the private one in PATH, the public one in PATH.pub and on standard output.

    Keep PATH where images are built, and nowhere else. The public key is what hosts need: see the setting
    images-trusted-keys.

    \b
    Example:
      ghvm images keygen images.key
    """
    console = Console()
    public = make_key(path)
    if as_json:
        console.result_json(
            {"schema": 1, "key": str(public), "id": public.id, "private": str(path), "public": f"{path}.pub"}
        )
        return
    console.result(str(public))
    console.say(f"key {public.id}: keep {path} secret, and trust it with images-trusted-keys on the hosts")
