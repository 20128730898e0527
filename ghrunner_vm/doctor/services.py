"""Whether GitHub and the image server do what a run asks of them."""

from collections.abc import Iterator
from pathlib import Path

from ghrunner_vm import runs
from ghrunner_vm.config import Settings
from ghrunner_vm.doctor.finding import Finding, examine, failed, of_error, ok, unknown, warning
from ghrunner_vm.errors import GhvmError
from ghrunner_vm.github.auth import DRIFT_SECONDS, drift_words
from ghrunner_vm.github.client import GitHub
from ghrunner_vm.github.connect import github_client
from ghrunner_vm.images.manifest import Manifest
from ghrunner_vm.images.remote import ImageServer
from ghrunner_vm.images.store import ImageStore
from ghrunner_vm.spec import Spec

_FEW = 0.1


def github(settings: Settings) -> Iterator[Finding]:
    """Credentials, permission, the runner group, the clock and what is left of the rate limit."""
    warnings: list[str] = []
    try:
        client = github_client(settings, warnings.append)
    except GhvmError as error:
        yield of_error("GitHub", error)
        return
    with client:
        access = examine("GitHub", lambda: _access(client, settings))
        yield access
        for words in warnings:
            yield warning("GitHub", words, "Do as it says.")
        yield examine("clock", lambda: clock(client.drift))
        if access.resolution is None:
            yield examine("API budget", lambda: _budget(client))


def _access(client: GitHub, settings: Settings) -> Finding:
    client.check(runs.new_id("ghvm-doctor"), settings.runner_group_id)
    app = client.app()
    whom = "a token" if app is None else f"the App {app.slug or app.name}"
    return ok("GitHub", f"{whom} may register runners for {client.scope}, in group {settings.runner_group_id}")


def clock(drift: float | None) -> Finding:
    """How far this host's clock is from GitHub's, in seconds."""
    if drift is None:
        return unknown("clock", "GitHub did not answer, so there is nothing to compare it with")
    if abs(drift) <= DRIFT_SECONDS:
        return ok("clock", "agrees with GitHub's")
    return warning("clock", f"{drift_words(drift)} GitHub's", "Set it by NTP: timedatectl set-ntp true")


def _budget(client: GitHub) -> Finding:
    core = client.rate_limits().get("core")
    if core is None:
        return ok("API budget", "no limit")
    told = f"{core.remaining} of {core.limit} requests are left this hour"
    if core.remaining < core.limit * _FEW:
        return warning("API budget", told, "Something else spends it as well. Raise --poll-seconds, or wait.")
    return ok("API budget", told)


def images(settings: Settings, spec: Spec | None, cache: Path) -> Finding:
    """The image server answers, and has the spec's image; the cache may stand in for a server that does not."""
    with ImageServer(settings.images_server) as server:
        try:
            commit = server.latest()
            if spec is None:
                return ok("images", f"{server.url} offers commit {commit[:12]}")
            manifest = server.manifest(commit, spec.image)
        except GhvmError as error:
            cached = None if spec is None or not cache.exists() else ImageStore(cache).newest(spec.image)
            if cached is None or settings.require_latest:
                raise
            return warning(
                "images", f"{error.brief}; the cache has {cached[:12]}", error.resolution or "See to the server."
            )
    return _image(manifest, spec, commit)


def _image(manifest: Manifest, spec: Spec, commit: str) -> Finding:
    if manifest.arch is not None and manifest.arch != spec.arch:
        return failed(
            "images",
            f"{spec.image} is made for {manifest.arch}, the spec says {spec.arch}",
            'Change "image" or "arch".',
        )
    return ok("images", f"{spec.image} {commit[:12]}, {'with' if manifest.agent else 'without'} an agent")
