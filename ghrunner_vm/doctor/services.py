"""Whether GitHub and the image server do what a run asks of them."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

from ghrunner_vm.clock import SYSTEM
from ghrunner_vm.config import Settings
from ghrunner_vm.errors import GhvmError
from ghrunner_vm.finding import Finding, examine, failed, of_error, ok, unknown, warning
from ghrunner_vm.github.client import GitHub
from ghrunner_vm.github.connect import github_client
from ghrunner_vm.github.inspection import access, clock, inspect
from ghrunner_vm.github.newest import newest_runner
from ghrunner_vm.images import ageing
from ghrunner_vm.images.inspection import of_cache
from ghrunner_vm.images.manifest import Manifest
from ghrunner_vm.images.remote import ImageServer
from ghrunner_vm.images.signature import Signature
from ghrunner_vm.images.store import ImageStore
from ghrunner_vm.images.trust import Trust, trust
from ghrunner_vm.spec import Spec


def github(settings: Settings) -> Iterator[Finding]:
    """Credentials, permission, the runner group, the clock and what is left of the rate limit."""
    warnings: list[str] = []
    try:
        client = github_client(settings, warnings.append)
    except GhvmError as error:
        yield of_error("GitHub", error)
        return
    with client:
        for finding in _asked(client, settings.runner_group_id):
            yield dataclasses.replace(finding, name=f"GitHub {finding.name}".rstrip())
    for words in warnings:
        yield warning("GitHub", words, "Do as it says.")


def _asked(client: GitHub, group_id: int) -> Iterator[Finding]:
    try:
        yield from inspect(client, group_id)
        yield access(client)
    except Exception as error:  # noqa: BLE001 a finding as well, see finding.examine
        yield of_error("", error)
    if client.drift is not None:
        yield clock(client.drift)


@dataclasses.dataclass(frozen=True)
class Offered:
    """The image that a run would take. `instead` tells why it is one of the cache."""

    commit: str
    manifest: Manifest
    signature: Signature | None
    instead: GhvmError | None = None


def server(settings: Settings) -> Finding:
    """The image server answers."""
    with ImageServer(settings.images_server) as server:
        return ok("images", f"{server.url} offers commit {server.latest()[:12]}")


def image(settings: Settings, spec: Spec, cache: Path) -> Iterator[Finding]:
    """The image server has the spec's image, which may boot here; else the cache may stand in. And its runner's age."""
    try:
        offered = _offered(settings, spec.image, cache)
    except GhvmError as error:
        yield of_error("images", error)
        return
    yield _image(offered, spec)
    yield examine("runner", lambda: _runner(settings, offered.manifest))


def _offered(settings: Settings, name: str, cache: Path) -> Offered:
    trusted = trust(settings)
    try:
        with ImageServer(settings.images_server) as server:
            commit = server.latest()
            announced = server.announced(commit, name)
        return Offered(commit, announced.manifest, trusted.check(announced.manifest, announced.signed))
    except GhvmError as error:
        found = None if settings.require_latest else _cached(name, cache, trusted)
        if found is None:
            raise
        return dataclasses.replace(found, instead=error)


def _cached(name: str, cache: Path, trusted: Trust) -> Offered | None:
    if not cache.exists():
        return None
    store = ImageStore(cache, trust=trusted)
    commit = store.newest(name)
    if commit is None:
        return None
    found = of_cache(store, commit, name)
    return Offered(commit, found.manifest, found.signature if trusted.keys else None)


def _image(offered: Offered, spec: Spec) -> Finding:
    manifest, instead = offered.manifest, offered.instead
    if manifest.arch is not None and manifest.arch != spec.arch:
        return failed(
            "images",
            f"{spec.image} is made for {manifest.arch}, the spec says {spec.arch}",
            'Change "image" or "arch".',
        )
    if instead is not None:
        words = f"{instead.brief}; the cache has {offered.commit[:12]}"
        return warning("images", words, instead.resolution or "See to the server.")
    signed = "" if offered.signature is None else f", signed by key {offered.signature.key}"
    agent = "with" if manifest.agent else "without"
    return ok("images", f"{spec.image} {offered.commit[:12]}, {agent} an agent{signed}")


def _runner(settings: Settings, manifest: Manifest) -> Finding:
    """How long GitHub will take the runner in the image."""
    most, today = settings.runner_max_age_days, SYSTEM.today()
    runner = ageing.runner(manifest, today, most, lambda: _newest(settings))
    ageing.require_young(runner, most)
    if runner.days is None:
        return unknown("runner", "the image does not tell how old its runner is")
    left = runner.left(today)
    told = runner.words if left is None else f"{runner.words}, {left} days left"
    return warning("runner", told, ageing.advice(runner)) if runner.old else ok("runner", told)


def _newest(settings: Settings) -> str | None:
    with contextlib.suppress(GhvmError), github_client(settings, lambda _words: None) as client:
        return newest_runner(client)
    return None  # another check tells why
