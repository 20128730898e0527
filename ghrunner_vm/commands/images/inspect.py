"""`ghvm images inspect`: what is in an image, and who vouches for it."""

from datetime import date
from pathlib import Path

import click

from ghrunner_vm import config
from ghrunner_vm.clock import SYSTEM
from ghrunner_vm.commands.images.list import cache_option
from ghrunner_vm.commands.images.reference import cache, resolve
from ghrunner_vm.commands.options import state_option, trusted_keys_option
from ghrunner_vm.config import Settings
from ghrunner_vm.console import Console
from ghrunner_vm.images import ageing
from ghrunner_vm.images.inspection import Inspected, Standing, of_cache, of_file
from ghrunner_vm.images.trust import trust
from ghrunner_vm.units import format_size


@click.command()
@click.argument("reference", metavar="NAME[@COMMIT]|NAME.json")
@click.option("--packages", is_flag=True, help="List the packages and their versions as well.")
@cache_option
@trusted_keys_option
@state_option
@click.option("--json", "as_json", is_flag=True, help="Print all of it as JSON, packages included.")
def inspect(reference: str, packages: bool, as_json: bool, **flags: object) -> None:
    """Show what an image of the cache consists of, its runner's age, and who has signed it.

    Instead of an image's name it takes the path of a manifest: what ends with .json or has a slash in it.

    \b
    Examples:
      ghvm images inspect ubuntu-x86_64
      ghvm images inspect build/ubuntu-x86_64.json --packages
    """
    console = Console()
    settings = config.load(flags)
    commit, found = _inspected(reference, settings)
    runner = ageing.runner(found.manifest, SYSTEM.today(), settings.runner_max_age_days)
    if as_json:
        console.result_json({"schema": 1, "commit": commit, **_facts(found, runner, SYSTEM.today())})
        return
    for key, value in _rows(found, commit, runner):
        console.result(f"{key:10} {value}")
    if packages:
        for package, version in sorted(found.manifest.packages.items()):
            console.result(f"  {package} {version}")


def _inspected(reference: str, settings: Settings) -> tuple[str | None, Inspected]:
    if "/" in reference or reference.endswith(".json"):
        return None, of_file(Path(reference), trust(settings))
    store = cache(settings)
    image = resolve(reference, store)
    return image.commit, of_cache(store, image.commit, image.name)


def _rows(found: Inspected, commit: str | None, runner: ageing.Runner) -> list[tuple[str, str]]:
    manifest, size = found.manifest, found.manifest.total_size
    return [
        ("image", manifest.name),
        ("commit", commit or "-"),
        ("arch", manifest.arch or "not told"),
        ("engines", ", ".join(manifest.engine)),
        ("size", f"{'not told' if size is None else format_size(size)} in {len(manifest.artifacts)} files"),
        ("kernel", manifest.kernel_version or "not told"),
        ("packages", str(len(manifest.packages) or "not told")),
        ("agent", "yes" if manifest.agent else "no"),
        ("runner", runner.words),
        ("signature", _signature(found)),
    ]


def _signature(found: Inspected) -> str:
    by = "" if found.signature is None else f"by key {found.signature.key}, serial {found.signature.serial}"
    match found.standing:
        case Standing.TRUSTED:
            return f"{by}, trusted"
        case Standing.UNCHECKED:
            return f"{by or 'unreadable'}, not verified: no keys are trusted"
        case _:
            refusal = "" if found.refusal is None else f"refused: {found.refusal.brief}"
            return ", ".join(filter(None, (by, refusal))) or "none"


def _facts(found: Inspected, runner: ageing.Runner, today: date) -> dict[str, object]:
    manifest, signature = found.manifest, found.signature
    return {
        "name": manifest.name,
        "arch": manifest.arch,
        "engines": list(manifest.engine),
        "bytes": manifest.total_size,
        "artifacts": {name: artifact.model_dump(by_alias=True) for name, artifact in manifest.artifacts.items()},
        "agent": manifest.agent,
        "kernel-version": manifest.kernel_version,
        "packages": dict(manifest.packages),
        "runner": {
            "version": runner.version,
            "date": None if manifest.runner_date is None else manifest.runner_date.isoformat(),
            "age-days": runner.days,
            "days-left": runner.left(today),
        },
        "signature": {
            "standing": found.standing.value,
            "key": None if signature is None else signature.key,
            "serial": None if signature is None else signature.serial,
            "refusal": None if found.refusal is None else found.refusal.brief,
        },
    }
