"""`ghvm token`: register a runner for a look at what GitHub says, and delete it again."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import click

from ghrunner_vm import app, config, spec
from ghrunner_vm.commands.options import PATH, github_options
from ghrunner_vm.config import Settings
from ghrunner_vm.console import Console
from ghrunner_vm.errors import GhvmError, UsageError
from ghrunner_vm.finding import Finding
from ghrunner_vm.github.connect import github_client
from ghrunner_vm.lifecycle import trial
from ghrunner_vm.lifecycle.inspection import Tell, examine
from ghrunner_vm.lifecycle.trial import Wish


@click.command()
@github_options
@click.option("--runner-group-id", metavar="N", type=int, help="Runner group.  [default: 1]")
@click.option("--label", "labels", metavar="LABEL", multiple=True, help="A label.  [default: ghvm-token]")
@click.option("--spec", "spec_file", metavar="SPEC", type=PATH, help="Take the labels of this spec.")
@click.option("--state-dir", metavar="DIR", type=PATH, help="Where the registration is recorded.")
@click.option("--raw", is_flag=True, help="Print nothing but the JIT config as GitHub sent it: a secret.")
@click.option("--keep", is_flag=True, help="Leave the runner registered; with --raw only.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def token(
    labels: tuple[str, ...], spec_file: Path | None, raw: bool, keep: bool, as_json: bool, **flags: object
) -> None:
    """Try whether runners can be registered: register one, show what GitHub says, delete it.

    Shows as whom ghvm acts, the App's installation and permission, the runner group, the labels, the rate limit, the
    clock, and the runner's JIT config without its secrets.

    With --raw the config goes to standard output, which may not be a terminal. Without --keep it is dead by then.

    \b
    Example:
      ghvm token --github-org my-org --github-client-id Iv1.0123 --github-private-key app.pem --spec spec.json
      (umask 077; ghvm token --raw --keep >config)
    """
    _check_usage(raw=raw, keep=keep, as_json=as_json)
    settings = config.load(flags)
    wish = Wish(_labels(labels, spec_file), settings.runner_group_id, keep)
    console = Console(settings.log_format)
    if raw:
        _examine(console, settings, wish, lambda finding: console.say(_text(finding)), console.result)
    elif as_json:
        _json(console, settings, wish)
    else:
        _examine(console, settings, wish, lambda finding: console.result(_text(finding)))


def _check_usage(*, raw: bool, keep: bool, as_json: bool) -> None:
    if keep and not raw:
        brief = "a runner that is kept is of no use without its configuration"
        raise UsageError(brief, resolution="Give --raw as well, or leave --keep out.")
    if raw and as_json:
        raise UsageError("--raw and --json exclude each other", resolution="Leave one out.")
    if raw and sys.stdout.isatty():
        brief = "a secret does not belong on a terminal"
        raise UsageError(brief, resolution="Send it to a file, (umask 077; ghvm token --raw … >FILE), or to a pipe.")


def _labels(labels: Sequence[str], spec_file: Path | None) -> tuple[str, ...]:
    if spec_file is None:
        return spec.check_labels(labels or (trial.NAME,))
    if labels:
        raise UsageError("--label and --spec exclude each other", resolution="Leave one out.")
    return spec.load(spec_file).all_labels


def _examine(
    console: Console, settings: Settings, wish: Wish, tell: Tell, raw: Callable[[str], None] | None = None
) -> None:
    def trouble(error: GhvmError) -> None:
        console.warn(error.brief)

    with github_client(settings, console.warn) as github:
        examine(github, app.runs_directory(settings), wish, tell, trouble, raw)


def _text(finding: Finding) -> str:
    first = f"{finding.status.value:8} {finding.name:13} {finding.found}"
    return "\n".join([first, *(f"{'':23}{line}" for line in (finding.details or "").splitlines())])


def _json(console: Console, settings: Settings, wish: Wish) -> None:
    """One document, whatever happens: what was found before an error, and the error."""
    findings: list[Finding] = []
    failure: GhvmError | None = None
    try:
        _examine(console, settings, wish, findings.append)
    except GhvmError as error:
        failure = error
        raise
    finally:
        rows = [{"topic": one.name, "state": one.status.value, "words": one.found, **one.facts} for one in findings]
        where = {"scope": settings.scope(), "api-url": settings.github_api_url}
        console.result_json({"schema": 1, **where, "findings": rows, "error": failure and _error(failure)})


def _error(error: GhvmError) -> Mapping[str, object]:
    parts = {"brief": error.brief, "details": error.details, "resolution": error.resolution}
    return {**parts, "exit-code": int(error.exit_code)}
