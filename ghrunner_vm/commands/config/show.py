"""`ghvm config show`: each setting and where it came from."""

import click
from pydantic import SecretStr

from ghrunner_vm.config import load_with_origins
from ghrunner_vm.console import Console


@click.command()
@click.option("--all", "everything", is_flag=True, help="Settings that have their default as well.")
@click.option("--json", "as_json", is_flag=True, help="Print all of them as JSON.")
def show(everything: bool, as_json: bool) -> None:
    """Show each setting that somebody has set, and where. Secrets are hidden.

    An option of a command comes before the environment (GHVM_GITHUB_ORG), that before the user's config.toml, that
    before the system's, and that before the default.

    \b
    Example:
      ghvm config show --all
    """
    console = Console()
    loaded = load_with_origins({})
    rows = [
        (name.replace("_", "-"), _plain(getattr(loaded.settings, name)), origin)
        for name, origin in loaded.origins.items()
    ]
    if as_json:
        console.result_json(
            {"schema": 1, "settings": {key: {"value": value, "from": origin} for key, value, origin in rows}}
        )
        return
    shown = [[key, _text(value), origin] for key, value, origin in rows if everything or origin != "default"]
    console.table(("SETTING", "VALUE", "FROM"), shown)
    if not shown:
        console.say("nothing is set: see `ghvm config init`, and `ghvm config show --all` for the defaults")


def _plain(value: object) -> object:
    """As JSON has it, without secrets."""
    if isinstance(value, SecretStr):
        return "(hidden)"
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _text(value: object) -> str:
    return "-" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
