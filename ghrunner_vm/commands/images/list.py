"""`ghvm images list`: what the cache holds."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from ghrunner_vm import app, config
from ghrunner_vm.commands.options import PATH, state_option
from ghrunner_vm.console import Console
from ghrunner_vm.images.store import CachedImage, ImageStore
from ghrunner_vm.units import format_age, format_size

_COLUMNS = ("IMAGE", "COMMIT", "SIZE", "AGE", "IN USE BY")
cache_option = click.option(
    "--images-cache-dir", type=PATH, metavar="DIR", help="Where images are kept.  [default: see `ghvm config show`]"
)


@click.command("list")
@cache_option
@state_option
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
def list_(images_cache_dir: Path | None, state_dir: Path | None, as_json: bool) -> None:
    """Show the images in the cache, the newest first, and the runs that use them.

    The newest of a name is what a run takes when the image server cannot be reached.

    \b
    Example:
      ghvm images list
    """
    console = Console()
    settings = config.load({"images_cache_dir": images_cache_dir, "state_dir": state_dir})
    directory = config.images_directory(settings)
    images = ImageStore(directory).images() if directory.exists() else []
    users = app.image_users(settings)
    if as_json:
        console.result_json({"schema": 1, "images": [_facts(image, users) for image in images]})
        return
    console.table(_COLUMNS, rows(images, users))
    console.say(f"{len(images)} images, {format_size(sum(image.size for image in images))} in {directory}")


def rows(images: Sequence[CachedImage], users: Mapping[tuple[str, str], Sequence[str]]) -> list[list[str]]:
    """A line for each image."""
    return [
        [image.name, image.commit[:12], format_size(image.size), format_age(image.age_seconds), _users(image, users)]
        for image in images
    ]


def _users(image: CachedImage, users: Mapping[tuple[str, str], Sequence[str]]) -> str:
    named = ", ".join(users.get((image.commit, image.name), ()))
    return named or ("a run or a pull elsewhere" if image.in_use else "-")


def _facts(image: CachedImage, users: Mapping[tuple[str, str], Sequence[str]]) -> dict[str, object]:
    return {
        "name": image.name,
        "commit": image.commit,
        "bytes": image.size,
        "age-seconds": round(image.age_seconds),
        "in-use": image.in_use,
        "in-use-by": list(users.get((image.commit, image.name), ())),
    }
