"""What `ghvm run` does: supervise the run, narrate it, and tell how it ended."""

import asyncio
import functools
from collections.abc import Callable, Mapping
from pathlib import Path

from ghrunner_vm import app, config, spec
from ghrunner_vm.console import Console, plain
from ghrunner_vm.errors import ExitCode, GhvmError
from ghrunner_vm.github.client import GitHub
from ghrunner_vm.github.connect import github_client
from ghrunner_vm.images.trust import tell_once
from ghrunner_vm.lifecycle import session
from ghrunner_vm.lifecycle.plan import Ended, Means, Plan, Tell
from ghrunner_vm.lifecycle.textfile import Textfile
from ghrunner_vm.notify import Notifier
from ghrunner_vm.process import Program
from ghrunner_vm.units import format_seconds


def supervise(spec_file: Path, flags: Mapping[str, object], signer: Program) -> None:
    """From the settings to the outcome. `signer` is for GitHub. Raises GhvmError unless the run ended well."""
    settings = config.load(flags)
    console = Console(settings.log_format)
    described = spec.load(spec_file)
    back_off = app.back_off(settings, spec_file)
    textfile = app.textfile(settings, described, back_off, console.warn)
    with textfile.to_the_end(), back_off.counting() as pause:
        app.check_host(described, console.warn)
        github = github_client(settings, console.warn, signer)
        textfile.budget = functools.partial(_budget, github)
        plan = app.plan(settings, described, pause)
        with console.from_a_thread():
            tell_once(settings, console.say)
            with app.means(settings, described, github, console.progress, console.warn) as means:
                tell = _measured(textfile, _teller(console, means.clock.monotonic))
                ended = asyncio.run(_watched(plan, means, tell))
            requests = _requests(github)  # the revoked token included
            left = f"; {requests['remaining']} of {requests['limit']} are left" if requests["limit"] is not None else ""
            console.say(f"GitHub counted {requests['made']} requests{left}", **requests)
        _render(console, ended, requests)


async def _watched(plan: Plan, means: Means, tell: Tell) -> Ended:
    """The run, of which a service manager is told what a person is."""
    notifier = Notifier()

    def told(step: str, words: str, **facts: object) -> None:
        tell(step, words, **facts)
        if step == "run":
            notifier.say(READY="1", STATUS=words)
        elif step == "ended":
            notifier.say(STOPPING="1", STATUS=words)
        elif step != "guest-log":
            notifier.say(STATUS=words)

    async with notifier.alive():
        return await session.run(plan, means, told)


def _measured(textfile: Textfile, tell: Tell) -> Tell:
    """Tells, and keeps the file of metrics up to date."""

    def told(step: str, words: str, **facts: object) -> None:
        tell(step, words, **facts)
        if step == "run":
            textfile.run_id = str(facts["run"])
        if step != "guest-log":
            textfile.write()

    return told


def _budget(github: GitHub) -> Mapping[str, int]:
    left = github.budget
    return {} if left is None else {"limit": left.limit, "remaining": left.remaining}


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
    lines = [line for line in plain(ended.console).splitlines() if line.strip()]
    return "\n".join(["The last of the guest's console:", *(f"  │ {line}" for line in lines)]) if lines else None
