"""`ghvm images build`: an image from an ordinary Dockerfile."""

import contextlib
import platform
from collections.abc import Iterator, Sequence
from io import BufferedReader
from pathlib import Path
from typing import cast

import click

from ghrunner_vm import config
from ghrunner_vm.commands.options import PATH, github_options
from ghrunner_vm.config import Settings
from ghrunner_vm.console import Console, Meter
from ghrunner_vm.errors import UsageError
from ghrunner_vm.github.connect import github_client
from ghrunner_vm.images.build import bundle, container
from ghrunner_vm.images.build.bundle import MAX_SIZE, MIN_SIZE, Wanted
from ghrunner_vm.images.build.outfit import Configuration
from ghrunner_vm.images.build.runner import LATEST, Offer, RunnerTarball, RunnerWish
from ghrunner_vm.images.build.runner import runner as find_runner
from ghrunner_vm.images.build.tarballs import TarballCache
from ghrunner_vm.images.manifest import Arch, Engine, Manifest, check_name
from ghrunner_vm.units import format_size, parse_size

_ARCHITECTURES = ("x86_64", "aarch64")
_ENGINES: dict[str, tuple[Engine, ...]] = {
    "qemu": ("qemu",),
    "firecracker": ("firecracker",),
    "both": ("qemu", "firecracker"),
}


@click.command()
@click.argument("context", metavar="[CONTEXT]", required=False, type=click.Path(path_type=Path))
@click.option(
    "--file", "-f", "dockerfile", metavar="PATH", type=PATH, help="Dockerfile.  [default: CONTEXT/Dockerfile]"
)
@click.option("--from-tar", metavar="ROOTFS.tar", type=PATH, help="Take a root file system instead of a Dockerfile's.")
@click.option("--name", metavar="NAME", help="What specs call the image.  [default: that of the CONTEXT]")
@click.option("--arch", type=click.Choice(_ARCHITECTURES), help="Its architecture.  [default: this host's]")
@click.option("--runner", "wish", metavar="TARBALL|VERSION|latest", default=LATEST, show_default=True, help="GitHub's.")
@click.option("--runner-sha256", metavar="HEX", help="What the runner's tarball must be, if GitHub does not tell.")
@click.option("--kernel", metavar="FILE", type=PATH, help="Boot this kernel instead of the image's newest.")
@click.option("--size", metavar="SIZE", default="8G", show_default=True, help="Disk; a spec's root-disk may be larger.")
@click.option("--engine", type=click.Choice(list(_ENGINES)), default="qemu", show_default=True, help="What boots it.")
@click.option("--output", "-o", metavar="DIR", type=PATH, default="build", show_default=True, help="Where it goes.")
@click.option("--builder", type=click.Choice(container.BUILDERS), help="Who builds.  [default: the first that works]")
@github_options
@click.option("--json", "as_json", is_flag=True, help="Print the manifest.")
def build(
    context: Path | None,
    dockerfile: Path | None,
    from_tar: Path | None,
    wish: str,
    runner_sha256: str | None,
    builder: str | None,
    as_json: bool,
    **flags: object,
) -> None:
    """Build the Dockerfile of CONTEXT and make an image of it, ready for `ghvm serve-images`.

    It needs neither root nor loop mounts. The image's distribution must have systemd and a kernel; `ghvm images init`
    writes a Dockerfile to begin with. GitHub's runner, the agent and the settings of a machine are added.

    \b
    Example:
      ghvm images build ./image --name debian-12
      ghvm images build --from-tar root.tar --name debian-12 --runner actions-runner-linux-x64-2.337.0.tar.gz
    """
    if (context is None) == (from_tar is None):
        raise UsageError("Give either a CONTEXT with a Dockerfile or --from-tar")
    if from_tar is not None and (dockerfile is not None or builder is not None):
        raise UsageError("--file and --builder are for a Dockerfile, and --from-tar has none")
    if from_tar is not None and flags["name"] is None:
        raise UsageError("--from-tar needs a --name for the image")
    wanted = _wanted(flags, context)
    settings = config.load({name: value for name, value in flags.items() if name.startswith("github_")})
    console = Console(settings.log_format)
    runner = _runner(console, settings, RunnerWish(wish, wanted.arch, runner_sha256))
    with contextlib.ExitStack() as stack:
        if from_tar is not None:
            tar, configuration = stack.enter_context(_opened(from_tar)), Configuration()
        else:
            built = _built(console, builder, context or Path(), dockerfile, wanted.arch)
            tar, configuration = stack.enter_context(built)
        with Meter(console.progress, wanted.name) as meter:
            manifest = bundle.build(
                tar, wanted, runner, configuration, progress=lambda done: meter.show(done, None), tell=console.warn
            )
    _render(console, manifest, wanted, as_json=as_json)


def _wanted(flags: dict[str, object], context: Path | None) -> Wanted:
    """What the options say; takes them out of `flags`."""
    try:
        name = check_name(str(flags.pop("name") or ("" if context is None else context.resolve().name)))
        size = parse_size(str(flags.pop("size")))
    except ValueError as error:
        raise UsageError(str(error)) from error
    if size < MIN_SIZE:
        raise UsageError(f"A disk has at least {format_size(MIN_SIZE)}", resolution="Make --size larger.")
    if size > MAX_SIZE:
        raise UsageError(f"A disk has at most {format_size(MAX_SIZE)}", resolution="Make --size smaller.")
    return Wanted(
        name=name,
        arch=cast("Arch", flags.pop("arch") or platform.machine()),
        size=size,
        engines=_ENGINES[str(flags.pop("engine"))],
        output=cast("Path", flags.pop("output")),
        kernel=cast("Path | None", flags.pop("kernel")),
    )


def _runner(console: Console, settings: Settings, wish: RunnerWish) -> RunnerTarball:
    def offered() -> Sequence[Offer]:
        with github_client(settings, console.warn) as github:
            return github.downloads()

    cache = TarballCache(config.images_directory(settings).parent / "runners")
    with Meter(console.progress, "the runner") as meter:
        return find_runner(wish, offered, cache, warn=console.warn, progress=meter.show)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    with file:
        yield file


@contextlib.contextmanager
def _built(
    console: Console, builder: str | None, context: Path, dockerfile: Path | None, arch: Arch
) -> Iterator[tuple[BufferedReader, Configuration]]:
    chosen = container.choose(builder)
    with container.exported(chosen, context, dockerfile=dockerfile, arch=arch, narrate=console.say) as exported:
        yield exported.tar, Configuration(exported.environment, exported.directory)


def _render(console: Console, manifest: Manifest, wanted: Wanted, *, as_json: bool) -> None:
    if as_json:
        console.result_json({"schema": 1, "manifest": manifest.model_dump(mode="json", by_alias=True)})
        return
    size = format_size(manifest.total_size or 0)
    console.result(f"{wanted.output / wanted.name}.json: {manifest.arch}, {size}, runner {manifest.runner_version}")
    console.say(f"serve it with: ghvm serve-images {wanted.output}")
