"""`ghvm sim serve`: run the simulator until told to stop."""

import contextlib
import shlex
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click

from ghrunner_vm.console import Console
from ghrunner_vm.errors import UsageError
from ghrunner_vm.files import write_atomically
from ghrunner_vm.simulator.server import Simulator
from ghrunner_vm.simulator.trouble import CATALOGUE

_HERE = "--images-server http://127.0.0.1:8000 --allow-emulation"  # a host without KVM emulates
STOP_SIGNALS = {signal.SIGINT, signal.SIGTERM}


@click.command(
    epilog="""\b
Examples:
  ghvm sim serve
  ghvm sim serve --port 9000 --org my-org --directory ~/sim
  ghvm sim serve --trouble suspended
"""
)
@click.option("--port", default=8321, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one.")
@click.option("--org", default="demo-org", show_default=True, help="The organization that exists.")
@click.option("--guest-host", default="10.0.2.2", show_default=True, help="This machine's address as a guest sees it.")
@click.option(
    "--trouble",
    "troubles",
    metavar="NAME",
    multiple=True,
    help="Misbehave in this way from the start; may be repeated.  [list: show all]",
)
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the App's private key is written.  [default: a temporary one]",
)
@click.pass_context
def serve(
    context: click.Context, port: int, org: str, guest_host: str, troubles: tuple[str, ...], directory: Path | None
) -> None:
    """Serve a stand-in for GitHub on 127.0.0.1 until SIGINT or SIGTERM.

    Prints the environment and the flags that make `ghvm run` use it. Everything it knows is gone when it stops.
    While it serves, POST /_sim/troubles/NAME begins a trouble and DELETE /_sim/troubles ends them all.
    """
    console = context.find_object(Console) or Console()
    if "list" in troubles:
        console.result("\n".join(f"{name:32} {trouble.about}" for name, trouble in CATALOGUE.items()))
        return
    with _held_back(), _directory(directory) as place, Simulator(port, org, guest_host) as simulator:
        for name in troubles:
            simulator.trouble(name)
        key = place / "app-private-key.pem"
        write_atomically(key, simulator.private_key_pem.encode(), mode=0o600)
        console.result(_instructions(simulator, org, key))
        console.say("Serving; stop with Ctrl-C.", url=simulator.url)
        signal.sigwait(STOP_SIGNALS)
        console.say("Stopping.")


@contextlib.contextmanager
def _held_back() -> Iterator[None]:
    """Keep the signals for sigwait, here and in the threads started within; an early one waits until then."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _directory(chosen: Path | None) -> Iterator[Path]:
    if chosen is None:
        with tempfile.TemporaryDirectory(prefix="ghvm-sim-") as made:
            yield Path(made)
        return
    try:
        chosen.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"The directory {chosen} cannot be made.", details=str(error), resolution="Choose another --directory."
        ) from error
    yield chosen


def _instructions(simulator: Simulator, org: str, key: Path) -> str:
    settings = {
        "github-api-url": simulator.url,
        "github-client-id": simulator.client_id,
        "github-private-key": str(key.absolute()),
        "github-org": org,
        "egress-allow": f"127.0.0.1:{simulator.port}",  # the guest reaches the simulator too
    }
    exports = [f"export GHVM_{name.replace('-', '_').upper()}={shlex.quote(text)}" for name, text in settings.items()]
    flags = " ".join(f"--{name} {shlex.quote(text)}" for name, text in settings.items())
    job = f"ghvm sim job --url {simulator.url} --label demo --run 'uname -a'"
    return "\n".join(
        [*exports, "", "# or, as flags:", f"# ghvm run {flags} {_HERE} SPEC", "", "# a job for it:", f"# {job}"]
    )
