"""`ghvm images prune`: make room in the cache."""

from pathlib import Path

import click

from ghrunner_vm import config
from ghrunner_vm.commands.images.list import cache_option
from ghrunner_vm.console import Console
from ghrunner_vm.errors import UsageError
from ghrunner_vm.images.prune import Rules, may_go, remove
from ghrunner_vm.images.store import ImageStore
from ghrunner_vm.suggest import did_you_mean
from ghrunner_vm.units import format_age, format_size, parse_duration, parse_size


@click.command()
@click.argument("names", metavar="[NAME]…", nargs=-1)
@click.option("--keep", type=click.IntRange(1), metavar="N", help="Keep the N newest of each name.  [default: 2]")
@click.option("--older-than", metavar="AGE", help="Remove what is so old: 90m, 12h, 7d, 4w.")
@click.option("--max-size", metavar="SIZE", help="Remove the oldest until the cache takes no more: 500M, 20G.")
@click.option("--all", "everything", is_flag=True, help="Remove all that is not in use.")
@click.option("--dry-run", is_flag=True, help="Only tell what would be removed.")
@cache_option
@click.option("--json", "as_json", is_flag=True, help="Print what was removed as JSON.")
def prune(
    names: tuple[str, ...],
    keep: int | None,
    older_than: str | None,
    max_size: str | None,
    everything: bool,
    dry_run: bool,
    images_cache_dir: Path | None,
    as_json: bool,
) -> None:
    """Remove images from the cache: of all names, or only of NAME. What a run or a pull uses always stays.

    Each rule is a reason to go, and one is enough. Without any rule it is --keep (the setting images-keep).

    \b
    Examples:
      ghvm images prune --dry-run
      ghvm images prune --older-than 30d --max-size 50G
    """
    console = Console()
    settings = config.load({"images_cache_dir": images_cache_dir})
    rules = _rules(keep, older_than, max_size, everything=everything, default=settings.images_keep)
    directory = config.images_directory(settings)
    # The store makes its directory, while a dry run changes nothing.
    images = [] if dry_run and not directory.exists() else ImageStore(directory).images()
    _check(names, {image.name for image in images})
    going = may_go(images, rules, names)
    size = format_size(sum(image.size for image in going))
    console.say(f"{'would free' if dry_run else 'freeing'} {size}: {_count(len(going))}")
    gone = [(one.name, one.commit, one.size) for one in going]
    if not dry_run:
        gone = [(one.name, one.commit, one.bytes) for one in remove(ImageStore(directory), going)]
    if as_json:
        listed = [{"name": name, "commit": commit, "bytes": size} for name, commit, size in gone]
        console.result_json({"schema": 1, "dry-run": dry_run, "removed": listed})
        return
    ages = {(one.name, one.commit): format_age(one.age_seconds) for one in going}
    for name, commit, freed in gone:
        told = f"{name} {commit[:12]} ({ages[name, commit]} old): {format_size(freed)}"
        console.result(f"{'would remove' if dry_run else 'removed'} {told}")
    for image in going if not dry_run else ():
        if (image.name, image.commit) not in {one[:2] for one in gone}:
            console.say(f"kept {image.name} {image.commit[:12]}: somebody uses it by now")


def _rules(keep: int | None, older_than: str | None, max_size: str | None, *, everything: bool, default: int) -> Rules:
    if (keep, older_than, max_size, everything) == (None, None, None, False):
        keep = default
    try:
        seconds = None if older_than is None else parse_duration(older_than)
        size = None if max_size is None else parse_size(max_size)
    except ValueError as error:
        raise UsageError(str(error)) from error
    return Rules(keep, seconds, size, everything)


def _check(names: tuple[str, ...], known: set[str]) -> None:
    for name in names:
        if name not in known:
            raise UsageError(f"the cache has no image {name}", resolution=did_you_mean(name, known) if known else None)


def _count(number: int) -> str:
    return "1 image" if number == 1 else f"{number} images"
