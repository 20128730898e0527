"""All that GitHub says of us, a registration for a look included."""

from collections.abc import Callable
from pathlib import Path

from ghrunner_vm.errors import GhvmError
from ghrunner_vm.finding import Finding, Status, ok
from ghrunner_vm.github.client import GitHub
from ghrunner_vm.github.inspection import clock, inspect
from ghrunner_vm.github.jitconfig import ConfigFile, decode
from ghrunner_vm.github.models import JitConfig
from ghrunner_vm.lifecycle import trial
from ghrunner_vm.lifecycle.trial import Wish

Tell = Callable[[Finding], None]


def examine(
    github: GitHub,
    directory: Path,
    wish: Wish,
    tell: Tell,
    trouble: Callable[[GhvmError], None],
    raw: Callable[[str], None] | None = None,
) -> None:
    """All that GitHub says, a registration included, which is recorded under `directory`. See `trial.register`.

    `raw` takes the JIT config as it is, which is then not looked into.
    """

    def look(made: JitConfig) -> None:
        tell(_registration(made, wish))
        encoded = made.encoded.get_secret_value()
        if raw is None:
            tell(_configuration(encoded))
        else:
            raw(encoded)

    _survey(github, wish.group_id, tell)
    name = trial.register(github, directory, wish, look, trouble)
    tell(_kept(name) if wish.keep else ok("deletion", f"{name} is deleted", {"name": name}))


def _survey(github: GitHub, group_id: int, tell: Tell) -> None:
    try:
        for finding in inspect(github, group_id):
            tell(finding)
    finally:
        if github.drift is not None:
            tell(clock(github.drift))


def _registration(made: JitConfig, wish: Wish) -> Finding:
    facts = {"id": made.runner_id, "name": made.name, "labels": list(made.labels)}
    words = f"{made.name} is runner {made.runner_id} with the labels {', '.join(made.labels)}"
    same = {label.casefold() for label in made.labels} == {label.casefold() for label in wish.labels}
    if same:
        return ok("registration", words, facts)
    asked = f"{words}, asked for were {', '.join(wish.labels)}"
    return Finding("registration", Status.WARNING, asked, facts=facts)


def _configuration(encoded: str) -> Finding:
    files = decode(encoded)
    shown = {
        file.name: {
            "shown": {entry.key: entry.value for entry in file.entries if entry.value is not None},
            "hidden": [entry.key for entry in file.entries if entry.value is None],
        }
        for file in files
    }
    words = f"{len(encoded)} characters, without the secrets:"
    details = "\n".join(line for file in files for line in _lines(file))
    facts = {"characters": len(encoded), "files": shown}
    return Finding("configuration", Status.OK, words, details=details, facts=facts)


def _lines(file: ConfigFile) -> list[str]:
    shown = [f"  {entry.key}: {entry.value}".rstrip() for entry in file.entries if entry.value is not None]
    hidden = [entry.key for entry in file.entries if entry.value is None]
    return [file.name, *shown, *([f"  hidden: {', '.join(hidden)}"] if hidden else [])]


def _kept(name: str) -> Finding:
    words = (
        f"{name} stays registered, and whoever has its configuration can run its job. GitHub may refuse the"
        f" configuration after minutes, and removes a runner that was not started within a day. To delete it before:"
        f" ghvm runners prune --name {name}"
    )
    return Finding("deletion", Status.WARNING, words, facts={"name": name})
