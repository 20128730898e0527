"""`ghvm config init`: a first config.toml."""

import json
import os
import sys
from pathlib import Path

import click

from ghrunner_vm import config
from ghrunner_vm.commands.options import PATH
from ghrunner_vm.commands.writing import write_for_all
from ghrunner_vm.console import Console
from ghrunner_vm.errors import UsageError

_QUESTIONS = {
    "github-org": ("Organization of the runners", ""),
    "github-client-id": ("Client ID of the GitHub App", ""),
    "github-private-key": ("Private key of the App, a PEM file", "/etc/ghvm/app.pem"),
    "runner-group-id": ("Number of the runner group", "1"),
    "images-server": ("URL of the image server", "https://gha-self-hosted-images.infra.rust-lang.org"),
}
_COMMENTS = {
    "github-org": "Whose runners these are; github-repo for one repository, github-enterprise for an enterprise.",
    "github-client-id": "The GitHub App that registers them.",
    "github-private-key": "Only ghvm's user may read it. A service hands it over by LoadCredential= instead.",
    "runner-group-id": "The number at the end of the group's page in the settings.",
    "images-server": "Where images come from: `ghvm serve-images`, or any server of static files.",
    "egress-allow": 'What guests may reach beside the internet, as ["10.1.2.3:443", "127.0.0.1:5000"].',
}
_SYSTEM = "Run it as root: sudo ghvm config init --system"
_OTHER = "Choose another place with --file, or run it as a user who may write there."


@click.command()
@click.option("--github-org", metavar="NAME", help="Instead of the question.")
@click.option("--github-client-id", metavar="ID", help="Instead of the question.")
@click.option("--github-private-key", metavar="PATH", help="Instead of the question.")
@click.option("--runner-group-id", metavar="N", help="Instead of the question.")
@click.option("--images-server", metavar="URL", help="Instead of the question.")
@click.option("--system", is_flag=True, help="Write the system's file, which services read, instead of the user's.")
@click.option("--file", type=PATH, metavar="PATH", help="Write this file instead.")
@click.option("--force", is_flag=True, help="Replace a file that is there.")
def init(system: bool, file: Path | None, force: bool, **given: str | None) -> None:
    """Ask the few questions that matter and write a config.toml with comments. Without a terminal it asks nothing.

    \b
    Examples:
      ghvm config init
      sudo ghvm config init --system --github-org my-org --github-client-id Iv23abcdef
    """
    console = Console()
    system_file, user_file = config.default_files()
    target = file or (system_file if system else user_file)
    if os.path.lexists(target) and not force:
        raise UsageError(f"{target} is there already", resolution="Edit it, or replace it with --force.")
    values: dict[str, str | int] = {}
    for key, (question, default) in _QUESTIONS.items():
        answer = given[key.replace("-", "_")]
        if answer is None:
            answer = _ask(question, default)
        if answer:
            values[key] = int(answer) if key == "runner-group-id" and answer.isdecimal() else answer
    text = _toml(values)
    config.check_file(target, text.encode())  # only what can be read again is written
    write_for_all(target, text, _SYSTEM if system and file is None else _OTHER)
    console.result(str(target))
    console.say("next: ghvm config check && ghvm doctor")


def _ask(question: str, default: str) -> str:
    if not sys.stdin.isatty():
        return default
    return str(click.prompt(question, default=default, err=True)).strip()


def _toml(values: dict[str, str | int]) -> str:
    lines = ["# Settings of ghvm. `ghvm config show --all` shows all there are."]
    for key, comment in _COMMENTS.items():
        # A JSON text is a TOML text as well, once DEL is escaped.
        written = json.dumps(values[key], ensure_ascii=False).replace("\x7f", "\\u007f") if key in values else None
        lines += ["", f"# {comment}", f"{key} = {written}" if written else f"# {key} ="]
    return "\n".join(lines) + "\n"
