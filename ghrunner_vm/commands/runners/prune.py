"""`ghvm runners prune`: delete registrations that nobody uses."""

from collections.abc import Iterable

import click

from ghrunner_vm import app, config
from ghrunner_vm.commands.options import PATH, github_options
from ghrunner_vm.console import Console
from ghrunner_vm.errors import InfrastructureError, UsageError
from ghrunner_vm.github.connect import github_client
from ghrunner_vm.lifecycle import pruning
from ghrunner_vm.lifecycle.pruning import Choice, Pruned

_SHORTEST_PREFIX = 3


@click.command()
@github_options
@click.option("--state-dir", metavar="DIR", type=PATH, help="Where runs are recorded.")
@click.option("--name", "names", metavar="NAME", multiple=True, help="Delete this runner too; may be repeated.")
@click.option("--name-prefix", metavar="PREFIX", help="Delete runners too whose names begin so.")
@click.option("--unconnected", is_flag=True, help="With --name-prefix: even those that were never online.")
@click.option("--dry-run", is_flag=True, help="Only tell what would be deleted.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def prune(
    names: tuple[str, ...],
    name_prefix: str | None,
    unconnected: bool,
    dry_run: bool,
    as_json: bool,
    **flags: object,
) -> None:
    """Delete runners that dead runs left registered.

    Those are the leftovers of this host, and what else the dead runs left goes too, as with `ghvm gc`. Others are
    deleted if you name them. Whatever you name, a runner that is online, has a job or belongs to a live run of this
    host stays. GitHub does not tell how old a registration is, and a runner that another host is just starting was
    never online: --name-prefix leaves those alone without --unconnected.

    Exit code 4 says that GitHub keeps a runner for now, as it does for minutes after a machine died in its job.

    \b
    Example:
      ghvm runners prune --dry-run --github-org my-org --github-client-id Iv1.0123 --github-private-key app.pem
      ghvm runners prune --name-prefix oldhost-
    """
    _check_usage(name_prefix, unconnected=unconnected)
    settings = config.load(flags)
    console = Console(settings.log_format)
    choice, directory = Choice(frozenset(names), name_prefix, unconnected), app.runs_directory(settings)
    with github_client(settings, console.warn) as github:
        if dry_run:
            done = pruning.preview(github, directory, choice)
        else:
            done = pruning.prune(github, directory, choice, lambda: app.collect_garbage(settings, github))
        _finish(console, done, as_json)


def _check_usage(prefix: str | None, *, unconnected: bool) -> None:
    if prefix is not None and len(prefix) < _SHORTEST_PREFIX:
        brief = f"--name-prefix {prefix!r} could mean anybody's runners"
        raise UsageError(brief, resolution=f"Give at least {_SHORTEST_PREFIX} characters.")
    if unconnected and prefix is None:
        raise UsageError("--unconnected is for --name-prefix", resolution="Give --name-prefix, or leave it out.")


def _finish(console: Console, done: Iterable[Pruned], as_json: bool) -> None:
    """Tell each as it is done; as JSON all at once, those that were done before an error too."""
    told: list[Pruned] = []
    try:
        for one in done:
            told.append(one)
            if not as_json:
                console.result(f"{one.name}: {one.fate}" + (f" ({one.why})" if one.why else ""))
    finally:
        if as_json:
            rows = [{"name": one.name, "fate": one.fate.replace(" ", "-"), "why": one.why or None} for one in told]
            console.result_json({"schema": 1, "runners": rows})
    if not told:
        console.say("there is nothing to delete")
    if any(one.fate == "pending" for one in told):
        raise InfrastructureError(
            "GitHub keeps some runners for now", resolution="Run it again in a quarter of an hour."
        )
