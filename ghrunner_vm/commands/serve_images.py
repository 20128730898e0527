"""`ghvm serve-images`: an image server for one directory."""

import contextlib
import ipaddress
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from ghrunner_vm.console import Console
from ghrunner_vm.images.catalog import Snapshot
from ghrunner_vm.images.server import ImageService, serve

_STOP = (signal.SIGINT, signal.SIGTERM)
_WATCH_SECONDS = 0.5
_FLAGS = "serving the images in {directory}; to use them, add\n\n    --images-server {url}\n"
pass_console = click.make_pass_decorator(Console, ensure=True)


@click.command(name="serve-images")
@click.argument("directory", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free port.")
@click.option("--cache-dir", type=click.Path(path_type=Path, file_okay=False), help="Where compressed copies are kept.")
@pass_console
def serve_images(console: Console, directory: Path, host: str, port: int, cache_dir: Path | None) -> None:
    """Serve the images in DIR to `ghvm run` and to the Rust project's executor.

    An image is a file NAME.qcow2, or a bundle with a manifest NAME.json. New and changed files are noticed.

    \b
    Example:
      ghvm serve-images ./build
    """

    def changed(snapshot: Snapshot) -> None:
        names = ", ".join(snapshot.images) or "no images yet"
        console.say(f"commit {snapshot.commit}: {names}", commit=snapshot.commit, images=snapshot.images)

    if not _is_loopback(host):
        console.warn(f"{host} is not a loopback address: everybody who can reach it can download these images")
    with (
        _signals_held(),
        serve(directory, host=host, port=port, cache_dir=cache_dir, warn=console.warn, changed=changed) as service,
    ):
        _wait(service, lambda: console.result(_FLAGS.format(directory=directory, url=service.url)))


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Keep the stop signals pending for `_wait`. Threads that are started inside inherit this."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _wait(service: ImageService, announce: Callable[[], None]) -> None:
    """Until told to stop; `announce` once there is something to ask for."""
    announced = False
    while signal.sigtimedwait(_STOP, _WATCH_SECONDS) is None:
        service.require_alive()
        if not announced and service.latest is not None:
            announced = True
            announce()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
