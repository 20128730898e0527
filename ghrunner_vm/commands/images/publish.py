"""`ghvm images publish`: put images where hosts fetch them from."""

import contextlib
from pathlib import Path

import click
from platformdirs import user_cache_path

from ghrunner_vm import config
from ghrunner_vm.commands.options import PATH
from ghrunner_vm.config import Settings
from ghrunner_vm.console import Console, Meter
from ghrunner_vm.images.catalog import Snapshot
from ghrunner_vm.images.compress import CompressedCache
from ghrunner_vm.images.directory_target import DirectoryTarget
from ghrunner_vm.images.http_target import HttpTarget
from ghrunner_vm.images.locking import nothing
from ghrunner_vm.images.manifest import Manifest
from ghrunner_vm.images.publish import Published, snapshot
from ghrunner_vm.images.publish import publish as publish_images
from ghrunner_vm.images.signature import SignedManifest
from ghrunner_vm.images.target import Target
from ghrunner_vm.images.trust import Trust, trust
from ghrunner_vm.units import format_size


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("target", metavar="TARGET")
@click.option("--name", metavar="NAME", help="Publish this image alone: the latest commit has no other then.")
@click.option("--cache-dir", metavar="DIR", type=PATH, help="Where compressed copies are kept.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def publish(directory: Path, target: str, name: str | None, cache_dir: Path | None, as_json: bool) -> None:
    """Publish the images in DIR under one commit, as `ghvm serve-images` would offer them.

    TARGET is a directory that a web server serves, or an http(s) URL that takes PUT; a token for it comes from
    GHVM_PUBLISH_TOKEN. Hosts see the new images when all of them are there, and none of them before. Earlier commits
    stay where they are. With images-trusted-keys a signature that hosts would refuse is refused here.

    \b
    Examples:
      ghvm images publish ./build /srv/images
      ghvm images publish ./build https://images.example.com
    """
    console = Console()
    settings = config.load({})
    cache = CompressedCache(cache_dir or user_cache_path("ghvm") / "served", nothing)
    console.say(f"reading and compressing the images in {directory}")
    found = snapshot(directory, cache, only=name)
    _check_signatures(found, Trust(trust(settings).keys))
    _tell_unsigned(console, found)
    with contextlib.ExitStack() as stack:
        place = _target(stack, target, settings)
        meter = stack.enter_context(Meter(console.progress, "publishing"))
        try:
            published = publish_images(found, place, meter.show)
        except KeyboardInterrupt:
            console.warn("interrupted: the same command goes on with what is there")
            raise
    _render(console, published, as_json)


def _target(stack: contextlib.ExitStack, text: str, settings: Settings) -> Target:
    if text.startswith(("http://", "https://")):
        return stack.enter_context(HttpTarget(text, settings.publish_token))
    return DirectoryTarget(Path(text).absolute())


def _check_signatures(found: Snapshot, trusted: Trust) -> None:
    """Where keys are trusted, nothing is published that hosts would refuse: an old signature of a new manifest, say."""
    for name in found.images:
        manifest, signature = (found.texts.get(f"{name}.json{suffix}") for suffix in ("", ".sig"))
        if manifest is not None and signature is not None:
            trusted.check(Manifest.parse(manifest), SignedManifest(manifest, signature))


def _tell_unsigned(console: Console, found: Snapshot) -> None:
    unsigned = [name for name in found.images if f"{name}.json.sig" not in found.texts]
    if unsigned:
        console.warn(f"not signed: {', '.join(unsigned)}; hosts with images-trusted-keys refuse them")


def _render(console: Console, published: Published, as_json: bool) -> None:
    if as_json:
        facts = {"commit": published.commit, "images": list(published.images), "bytes-sent": published.sent}
        console.result_json({"schema": 1, **facts})
        return
    console.result(f"{published.commit}: {', '.join(published.images)}; {format_size(published.sent)} sent")
