"""`ghvm sim job`: queue a job at the simulator and follow it."""

import click

from ghrunner_vm.console import Console
from ghrunner_vm.errors import ExitCode
from ghrunner_vm.simulator.client import JobRecord, SimulatorClient


@click.command(
    epilog="""\b
Examples:
  ghvm sim job --label demo --run 'uname -a'
  ghvm sim job --label demo --label big --run 'make test' --name test --json
"""
)
@click.option("--label", "labels", multiple=True, required=True, help="A label the runner must have; may be repeated.")
@click.option("--run", "script", required=True, help="Shell text to run, with sh -e.")
@click.option("--name", default="build", show_default=True, help="The job's name.")
@click.option("--url", default="http://127.0.0.1:8321", show_default=True, help="Where the simulator answers.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Follow the job to its end.")
@click.option("--json", "as_json", is_flag=True, help="Print the job's record, with its log, as JSON.")
@click.pass_context
def job(
    context: click.Context, labels: tuple[str, ...], script: str, name: str, url: str, wait: bool, as_json: bool
) -> None:
    """Queue a job at the simulator and follow its log.

    The log goes to stdout. Exits 0 if the job succeeded, or was only queued, and 1 if it failed.
    """
    console = context.find_object(Console) or Console()
    with SimulatorClient(url) as client:
        record = client.enqueue(labels, script, name)
        console.say(f"Job {record.id} is queued for a runner with: {', '.join(record.labels)}", job=record.id)
        if wait:
            _follow(console, client, record.id, quiet=as_json)
            record = client.job(record.id)
    if as_json:
        console.result_json(record.model_dump())
    if wait and record.conclusion != "success":
        context.exit(ExitCode.ERROR)


def _follow(console: Console, client: SimulatorClient, job_id: int, *, quiet: bool) -> None:
    runner = None
    for record in client.follow(job_id):
        runner = _tell_runner(console, record, runner)
        for line in record.log if not quiet else ():
            console.result(_printable(line))
    console.say(f"Job {job_id} ended: {record.conclusion}", job=job_id, conclusion=record.conclusion)


def _tell_runner(console: Console, record: JobRecord, told: str | None) -> str | None:
    if record.runner_name is not None and told is None:
        console.say(f"Job {record.id} runs on {record.runner_name}", job=record.id, runner=record.runner_name)
    return record.runner_name


def _printable(line: str) -> str:
    """The line without what could drive a terminal: the text comes from a guest."""
    return "".join(char if char.isprintable() or char == "\t" else "\N{REPLACEMENT CHARACTER}" for char in line)
