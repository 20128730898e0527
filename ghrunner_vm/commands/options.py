"""Options that several subcommands share, by the same names."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., object])

PATH = click.Path(path_type=Path)

state_option = click.option("--state-dir", metavar="DIR", type=PATH, help="Where runs are recorded.")


def given(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...] | None:
    """A callback for an option that may be repeated: not given at all is None, so that other settings hold."""
    return values or None


trusted_keys_option = click.option(
    *("--images-trusted-keys", "images_trusted_keys"),
    metavar="ed25519:…",
    multiple=True,
    callback=given,
    help="Take only images that this key has signed; may be repeated.",
)

_GITHUB = (
    click.option("--github-client-id", metavar="ID", help="Client ID of the GitHub App."),
    click.option("--github-private-key", metavar="PATH", type=PATH, help="Private key of the GitHub App, a PEM file."),
    click.option("--github-org", metavar="NAME", help="Organization of the runners."),
    click.option("--github-repo", metavar="OWNER/NAME", help="Repository of the runners."),
    click.option("--github-enterprise", metavar="NAME", help="Enterprise of the runners (token only)."),
    click.option("--github-api-url", metavar="URL", help="GitHub's API.  [default: https://api.github.com]"),
)


def github_options(command: Command) -> Command:
    """Whom to register runners with, and as whom."""
    for option in reversed(_GITHUB):
        command = option(command)
    return command
