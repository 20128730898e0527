"""`ghvm config check`: can these settings be used?"""

import click

from ghrunner_vm import app
from ghrunner_vm.config import default_files, load
from ghrunner_vm.console import Console
from ghrunner_vm.github.connect import github_client


@click.command()
def check() -> None:
    """Check that all settings can be read and used here, the App's private key included.

    Nobody is asked; see `ghvm doctor`.

    \b
    Example:
      ghvm config check
    """
    console = Console()
    settings = load({})
    app.check_settings(settings)
    with github_client(settings, console.warn):
        pass  # it has read the key; nothing was asked of GitHub
    read = [str(file) for file in default_files() if file.exists()]
    console.result(f"good: {', '.join(read) or 'the environment'}, for {settings.scope()}")
