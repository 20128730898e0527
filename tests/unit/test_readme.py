"""The commands in the README and the documents are those that the program has."""

import re
import shlex
from pathlib import Path

import click
import pytest

from ghrunner_vm.cli import cli

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^ *```sh\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)\)")


def commands(program: str) -> list[list[str]]:
    found = []
    for document in DOCUMENTS:
        for block in BLOCK.findall(document.read_text(encoding="utf-8")):
            lines = block.replace("\\\n", " ").replace(" && ", "\n").splitlines()
            words = [shlex.split(line.partition(" > ")[0], comments=True) for line in lines]
            bare = [line[1:] if line[:1] == ["sudo"] else line for line in words]
            found += [line[1:] for line in bare if line and line[0].rpartition("/")[2] == program and "…" not in line]
    return found


def test_there_are_commands_to_check() -> None:
    assert {words[0] for words in commands("ghvm")} == {
        *("run", "ps", "logs", "ssh", "stop", "history", "why", "gc"),
        *("images", "serve-images", "systemd", "doctor", "sim"),
        *("config", "completion", "token", "runners"),
    }


@pytest.mark.parametrize("words", commands("ghvm"), ids=" ".join)
def test_the_command_line_is_understood(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every option and argument is parsed by the real command; nothing is carried out."""
    command: click.Command = cli
    context = click.Context(cli)
    while isinstance(command, click.Group):
        name = words.pop(0)
        found = command.get_command(context, name)
        assert found is not None, f"there is no command {name}"
        command = found
    (tmp_path / "build").mkdir()
    monkeypatch.chdir(tmp_path)
    command.make_context(command.name, words)


@pytest.mark.parametrize("words", commands("make"), ids=" ".join)
def test_the_make_target_exists(words: list[str]) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert words[0] in targets


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in LINK.findall(document.read_text(encoding="utf-8")):
        assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_the_documents_name_every_exit_code_outcome_and_timer() -> None:
    from ghrunner_vm.lifecycle.events import Timer
    from ghrunner_vm.lifecycle.outcome import Outcome

    text = (ROOT / "docs/lifecycle.md").read_text(encoding="utf-8")
    for outcome in Outcome:
        row = next(line for line in text.splitlines() if f"`{outcome.label}`" in line and line.startswith("|"))
        assert row.startswith(f"| {int(outcome.exit_code)} |"), f"{outcome.label} stands at the wrong exit code"
    for timer in Timer:
        assert f"| {timer.value} |" in text
