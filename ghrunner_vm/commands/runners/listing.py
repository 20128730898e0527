"""`ghvm runners list`: the runners that are registered, and whose they are."""

import click

from ghrunner_vm import app, config
from ghrunner_vm.commands.options import PATH, github_options
from ghrunner_vm.console import Console
from ghrunner_vm.github.connect import github_client
from ghrunner_vm.lifecycle.ownership import Owner, Registered, take_inventory

_COLUMNS = ("NAME", "ID", "STATUS", "BUSY", "OS", "VERSION", "LABELS", "WHOSE")
_WHOSE = {
    Owner.ALIVE: "a live run of this host",
    Owner.DEAD: "a dead run of this host",
    Owner.UNKNOWN: "not known here",
}


@click.command("list")
@github_options
@click.option("--state-dir", metavar="DIR", type=PATH, help="Where runs are recorded.")
@click.option("--ours", is_flag=True, help="Only the runners of runs of this host.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def list_runners(ours: bool, as_json: bool, **flags: object) -> None:
    """List the registered runners and whose they are.

    All of the organization, repository or enterprise are listed. WHOSE tells what this host knows of them: a live run,
    a dead one, whose runner `ghvm runners prune` deletes, or nothing, as of another host's.

    \b
    Example:
      ghvm runners list --github-org my-org --github-client-id Iv1.0123 --github-private-key app.pem
    """
    settings = config.load(flags)
    console = Console(settings.log_format)
    with github_client(settings, console.warn) as github:
        inventory = take_inventory(github, app.runs_directory(settings))
    shown = [one for one in inventory.runners if one.owner is not Owner.UNKNOWN or not ours]
    if as_json:
        where = {"scope": settings.scope(), "api-url": settings.github_api_url}
        console.result_json({"schema": 1, **where, "runners": [_facts(one) for one in shown]})
        return
    console.table(_COLUMNS, [_row(one) for one in shown])
    if not shown:
        console.say(f"no runner {'of this host ' if ours else ''}is registered in {settings.scope()}")


def _row(one: Registered) -> tuple[str, ...]:
    runner = one.runner
    busy, labels = "yes" if runner.busy else "no", ", ".join(runner.label_names)
    return (
        *(runner.name, str(runner.id), runner.status, busy, runner.os, runner.version or "-", labels),
        _WHOSE[one.owner],
    )


def _facts(one: Registered) -> dict[str, object]:
    runner = one.runner
    return {
        "name": runner.name,
        "id": runner.id,
        "status": runner.status,
        "busy": runner.busy,
        "os": runner.os,
        "version": runner.version,
        "labels": list(runner.label_names),
        "owner": one.owner.value,
    }
