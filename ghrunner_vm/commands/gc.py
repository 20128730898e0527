"""`ghvm gc`: remove what dead runs left."""

import click

from ghrunner_vm import app, config
from ghrunner_vm.commands.options import PATH, github_options
from ghrunner_vm.console import Console
from ghrunner_vm.errors import InfrastructureError, PermanentError, UsageError
from ghrunner_vm.github.client import GitHub
from ghrunner_vm.github.connect import github_client
from ghrunner_vm.lifecycle.gc import Collected


@click.command()
@github_options
@click.option("--state-dir", metavar="DIR", type=PATH, help="Where runs are recorded.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def gc(as_json: bool, **flags: object) -> None:
    """Remove virtual machines, disks and registrations that dead runs left. Live runs are never touched.

    Without credentials for GitHub everything on this host is removed, and registrations stay recorded as pending.
    Exit code 4 says that something is pending, 5 that something was kept for you to look at.

    \b
    Example:
      ghvm gc --github-org my-org --github-client-id Iv1.0123 --github-private-key app.pem
    """
    settings = config.load(flags)
    console = Console(settings.log_format)
    try:
        client = github_client(settings, console.warn)
    except (UsageError, PermanentError) as error:
        console.warn(f"registrations are left alone: {error.brief}")
        _finish(console, list(app.collect_garbage(settings, None)), as_json)
        return
    with client:
        _finish(console, _collect(settings, client), as_json)


def _collect(settings: config.Settings, client: GitHub) -> list[Collected]:
    return list(app.collect_garbage(settings, client))


def _finish(console: Console, collected: list[Collected], as_json: bool) -> None:
    if as_json:
        rows = [{"id": one.id, "fate": one.fate, "why": one.why} for one in collected]
        console.result_json({"schema": 1, "collected": rows})
    for one in () if as_json else collected:
        console.result(f"{one.id}: {one.fate}" + (f" ({one.why})" if one.why else ""))
    _judge(collected)


def _judge(collected: list[Collected]) -> None:
    if kept := [one.id for one in collected if one.fate == "kept"]:
        raise PermanentError(
            f"What does not look like the remains of a run was kept: {', '.join(kept)}",
            resolution="Look at it in the directory `runs` of the state directory, and remove it yourself.",
        )
    if any(one.fate == "pending" for one in collected):
        raise InfrastructureError(
            "Some registrations are still pending",
            resolution="Run `ghvm gc` again in a quarter of an hour, with the options of the runs that they are of.",
        )
