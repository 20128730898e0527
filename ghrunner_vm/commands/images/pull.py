"""`ghvm images pull`: bring an image into the cache."""

from pathlib import Path

import click

from ghrunner_vm.commands.options import state_option, trusted_keys_option
from ghrunner_vm.config import Settings, images_directory, load
from ghrunner_vm.console import Console, Meter
from ghrunner_vm.errors import UsageError
from ghrunner_vm.images.errors import PullCancelled
from ghrunner_vm.images.manifest import check_name
from ghrunner_vm.images.pull import PulledImage
from ghrunner_vm.images.pull import pull as pull_image
from ghrunner_vm.images.remote import ImageServer
from ghrunner_vm.images.store import ImageStore
from ghrunner_vm.images.trust import tell_once, trust
from ghrunner_vm.units import format_size


@click.command()
@click.argument("name")
@click.option("--images-server", metavar="URL", help="The image server.")
@click.option("--images-cache-dir", type=click.Path(path_type=Path, file_okay=False), help="Where images are kept.")
@click.option("--commit", metavar="COMMIT", help="A version of the images instead of the latest one.")
@trusted_keys_option
@state_option
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def pull(name: str, commit: str | None, as_json: bool, **flags: object) -> None:
    """Fetch the image NAME, unless the cache has it already. With trusted keys it must be signed by one of them.

    \b
    Example:
      ghvm images pull ubuntu-x86_64 --images-server http://images.internal:8000
    """
    console = Console()
    _check("NAME", name)
    _check("--commit", commit)
    settings = load(flags)
    tell_once(settings, console.say)
    try:
        pulled = _pulled(console, settings, name, commit)
    except KeyboardInterrupt:
        raise PullCancelled(
            "The pull was interrupted", resolution="The same command goes on with what is complete."
        ) from None
    _render(console, pulled, as_json)


def _pulled(console: Console, settings: Settings, name: str, commit: str | None) -> PulledImage:
    store = ImageStore(images_directory(settings), trust=trust(settings))
    with ImageServer(settings.images_server) as server, Meter(console.progress, name) as bar:
        pulled = pull_image(store, server, name, commit=commit, progress=bar.show)
    if store.trust.keys:
        with store.lease(pulled.commit, name) as image:
            store.trust.remember(name, image.signature)
    return pulled


def _check(what: str, value: str | None) -> None:
    try:
        if value is not None:
            check_name(value)
    except ValueError as error:
        raise UsageError(f"{what}: {error}") from error


def _render(console: Console, pulled: PulledImage, as_json: bool) -> None:
    if as_json:
        result = {"schema": 1, "commit": pulled.commit, "name": pulled.name}
        console.result_json({**result, "fetched": pulled.fetched, "bytes": pulled.bytes})
    elif pulled.fetched:
        console.result(f"{pulled.name} {pulled.commit} fetched, {format_size(pulled.bytes)}")
    else:
        console.result(f"{pulled.name} {pulled.commit} is in the cache already")
