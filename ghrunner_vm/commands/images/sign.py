"""`ghvm images sign`: vouch for images."""

from pathlib import Path

import click

from ghrunner_vm.clock import SYSTEM
from ghrunner_vm.commands.options import PATH
from ghrunner_vm.console import Console
from ghrunner_vm.images.signing import checked, next_serial, read_key
from ghrunner_vm.images.signing import sign as sign_bundle


@click.command()
@click.argument("manifests", metavar="DIR/NAME.json…", nargs=-1, required=True, type=PATH)
@click.option("--key", "key_file", metavar="PATH", required=True, type=PATH, help="The private key.")
@click.option("--serial", type=click.IntRange(1), metavar="N", help="A number that only grows.  [default: the time]")
@click.option("--json", "as_json", is_flag=True, help="Print what was signed as JSON.")
def sign(manifests: tuple[Path, ...], key_file: Path, serial: int | None, as_json: bool) -> None:
    """Sign bundles: write NAME.json.sig beside each manifest, once all artifacts are found to be what it says.

    A host takes no image with a lower serial than one it has used. So to go back to an older image, sign it anew.

    \b
    Example:
      ghvm images sign build/ubuntu-x86_64.json --key images.key
    """
    console = Console()
    key = read_key(key_file)
    bundles = [checked(path) for path in manifests]
    serials = [next_serial(bundle, serial, SYSTEM.wall()) for bundle in bundles]
    signed = [(bundle, sign_bundle(bundle, key, number)) for bundle, number in zip(bundles, serials, strict=True)]
    if as_json:
        facts = [
            {"name": bundle.manifest.name, "file": str(bundle.signature_path), "serial": made.serial, "key": made.key}
            for bundle, made in signed
        ]
        console.result_json({"schema": 1, "signed": facts})
        return
    for bundle, made in signed:
        console.result(f"{bundle.signature_path}: key {made.key}, serial {made.serial}")
