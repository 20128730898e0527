"""`ghvm run`: one job in one virtual machine."""

import asyncio
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import click

from ghrunner_vm import app, config, spec
from ghrunner_vm.commands.options import PATH, github_options
from ghrunner_vm.console import Console
from ghrunner_vm.errors import ExitCode, GhvmError
from ghrunner_vm.github.client import GitHub
from ghrunner_vm.lifecycle import session
from ghrunner_vm.lifecycle.plan import Ended, Tell
from ghrunner_vm.units import format_seconds

# Cursor movements and colours, which firmware likes (ECMA-48 control sequences).
_CONTROL = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[@-Z\\-_c])")


@click.command()
@click.argument("spec_file", metavar="SPEC", type=PATH)
@github_options
@click.option("--runner-group-id", metavar="N", type=int, help="Runner group.  [default: 1]")
@click.option("--images-server", metavar="URL", help="Image server.  [default: the Rust project's]")
@click.option("--images-cache-dir", metavar="DIR", type=PATH, help="Where images are kept.")
@click.option(
    "--image-poll-seconds", metavar="N", type=int, help="How often to look for a newer image; 0: never.  [default: 300]"
)
@click.option("--no-cache", is_flag=True, default=None, help="Keep the image in a temporary directory.")
@click.option("--require-latest", is_flag=True, default=None, help="Refuse a cached image when the server is down.")
@click.option("--no-shutdown-after-job", is_flag=True, default=None, help="Let the machine live on after its job.")
@click.option(
    "--ssh-port", metavar="PORT", type=int, help="Port on this host's loopback that leads to the guest's SSH."
)
@click.option("--accel", type=click.Choice(["auto", "kvm", "tcg"]), help="Accelerator.  [default: auto]")
@click.option("--allow-emulation", is_flag=True, default=None, help="Allow an emulated guest; for trusted code only.")
@click.option("--allow-host-loopback", is_flag=True, default=None, help="Let the guest reach this host's 127.0.0.1.")
@click.option("--name", metavar="PREFIX", help="Prefix of the runner's name.  [default: the spec's label]")
@click.option("--state-dir", metavar="DIR", type=PATH, help="Where runs are recorded.")
@click.option(
    "--poll-seconds", metavar="N", type=int, help="How often GitHub is asked about the runner.  [default: 60]"
)
@click.option("--drain-seconds", metavar="N", type=int, help="Longest wait for GitHub while draining.  [default: 600]")
@click.option("--log-format", type=click.Choice(["text", "json"]), help="Narration as text or as JSON lines.")
def run(spec_file: Path, **flags: object) -> None:
    """Run one job in one virtual machine, as the file SPEC describes it.

    SIGTERM and SIGHUP drain: a job that runs is finished, an idle runner is deregistered first. Ctrl-C ends the
    machine at once; a second Ctrl-C does not even wait for GitHub.

    Each option can come from the environment (GHVM_GITHUB_ORG) or from config.toml (github-org) as well. A token
    instead of a GitHub App comes from GHVM_GITHUB_TOKEN.

    \b
    Example:
      ghvm run instances/ubuntu-24.04-x86_64.json --github-org my-org \\
          --github-client-id Iv1.0123 --github-private-key app.pem --allow-host-loopback
    """
    settings = config.load(flags)
    console = Console(settings.log_format)
    described = spec.load(spec_file)
    app.check_host(described, console.warn)
    plan = app.plan(settings, described)
    with console.from_a_thread():
        with app.means(settings, described, console.progress, console.warn) as means:
            ended = asyncio.run(session.run(plan, means, _teller(console, means.clock.monotonic)))
        requests = _requests(means.github)  # the revoked token included
        left = f"; {requests['remaining']} of {requests['limit']} are left" if requests["limit"] is not None else ""
        console.say(f"GitHub counted {requests['made']} requests{left}", **requests)
    _render(console, ended, requests)


def _teller(console: Console, now: Callable[[], float]) -> Tell:
    began = now()

    def tell(step: str, words: str, **facts: object) -> None:
        seconds = round(now() - began, 2)
        if console.log_format == "json":
            say = console.echo if step == "guest-log" else console.say
            say(words, step=step, seconds=seconds, **facts)
        elif step == "guest-log":
            console.echo(f"          │ {words}")
        else:
            (console.warn if step == "trouble" else console.say)(f"{seconds:7.1f} s {words}")

    return tell


def _requests(github: GitHub) -> Mapping[str, int | None]:
    budget = github.budget
    limit, remaining = (None, None) if budget is None else (budget.limit, budget.remaining)
    return {"made": github.requests_made, "limit": limit, "remaining": remaining}


def _render(console: Console, ended: Ended, requests: Mapping[str, int | None]) -> None:
    outcome = ended.outcome
    result = f" ({ended.job_result})" if ended.job_result else ""
    words = f"{ended.id}: {outcome.words}{result}, {format_seconds(ended.seconds)}"
    if console.log_format == "json":
        facts = {"schema": 1, "run": ended.id, "outcome": outcome.label, "exit-code": int(outcome.exit_code)}
        job = {"job-result": ended.job_result, "seconds": round(ended.seconds, 2)}
        console.result_json({**facts, **job, "github-requests": requests})
    elif outcome.exit_code == ExitCode.OK:
        console.result(words)
    if outcome.exit_code != ExitCode.OK:
        raise _failure(ended, words)


def _failure(ended: Ended, words: str) -> GhvmError:
    if ended.refusal is not None:
        details = "\n".join(filter(None, (ended.refusal.brief, ended.refusal.details)))
        error = GhvmError(words, details=details, resolution=ended.refusal.resolution)
    else:
        details = "\n".join(filter(None, (ended.cause, _console_of(ended))))
        error = GhvmError(words, details=details or None, resolution=ended.outcome.advice)
    error.exit_code = ended.outcome.exit_code
    return error


def _console_of(ended: Ended) -> str | None:
    """The guest's last words, marked line by line as not ours."""
    lines = [line for line in _CONTROL.sub("", ended.console).splitlines() if line.strip()]
    return "\n".join(["The last of the guest's console:", *(f"  │ {line}" for line in lines)]) if lines else None
