"""`ghvm config path`: where ghvm looks and where it writes."""

import click

from ghrunner_vm import config
from ghrunner_vm.console import Console


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
def path(as_json: bool) -> None:
    """Show the files that settings are read from, the strongest last, and the directories that are written to.

    \b
    Example:
      ghvm config path
    """
    console = Console()
    settings = config.load({})
    files = config.default_files()
    directories = {
        "state": config.state_directory(settings),
        "images": config.images_directory(settings),
        "sockets": config.runtime_directory(settings),
    }
    if as_json:
        listed = [{"path": str(file), "exists": file.exists()} for file in files]
        console.result_json({"schema": 1, "files": listed, **{name: str(where) for name, where in directories.items()}})
        return
    rows = [["settings", str(file), "there" if file.exists() else "not there"] for file in files]
    rows += [[name, str(where), "there" if where.exists() else "not there"] for name, where in directories.items()]
    console.table(("WHAT", "WHERE", ""), rows)
