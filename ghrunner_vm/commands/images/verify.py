"""`ghvm images verify`: would this image be booted here?"""

import click

from ghrunner_vm import config
from ghrunner_vm.commands.images.list import cache_option
from ghrunner_vm.commands.images.reference import cache, resolve
from ghrunner_vm.commands.options import state_option, trusted_keys_option
from ghrunner_vm.console import Console
from ghrunner_vm.errors import UsageError
from ghrunner_vm.images.signature import Signature


@click.command()
@click.argument("reference", metavar="NAME[@COMMIT]")
@click.option("--deep", is_flag=True, help="Read all of it, whatever is known of its files, and compare the hashes.")
@cache_option
@trusted_keys_option
@state_option
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def verify(reference: str, deep: bool, as_json: bool, **flags: object) -> None:
    """Check an image of the cache as a run would: its signature, and that its files are what it was made of.

    Without @COMMIT it is the newest of that name. The exit code is 0 if it would be booted, 4 or 5 if not. Without
    images-trusted-keys nobody vouches for an image: then only --deep can be asked for.

    \b
    Example:
      ghvm images verify ubuntu-x86_64 --deep
    """
    console = Console()
    settings = config.load(flags)
    store = cache(settings)
    if not store.trust.keys and not deep:
        raise UsageError(
            "no images-trusted-keys are set, so no signature can be verified",
            resolution="Give --images-trusted-keys, or --deep to compare the hashes alone.",
        )
    image = resolve(reference, store)
    with store.lease(image.commit, image.name, full=deep) as leased:
        signature = leased.signature
        files = sorted(leased.files)
    if as_json:
        facts = {"name": image.name, "commit": image.commit, "deep": deep, "files": files}
        console.result_json({"schema": 1, **facts, "signature": _facts(signature)})
        return
    by = "not verified, since no keys are trusted" if signature is None else f"by key {signature.key}"
    serial = "" if signature is None else f", serial {signature.serial}"
    hashes = f"{len(files)} files read, all as in the manifest" if deep else f"{len(files)} files unchanged"
    console.result(f"{image}: signature {by}{serial}; {hashes}")


def _facts(signature: Signature | None) -> dict[str, object] | None:
    return None if signature is None else {"key": signature.key, "serial": signature.serial}
