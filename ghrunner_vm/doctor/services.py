"""Whether GitHub and the image server do what a run asks of them."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from ghrunner_vm.config import Settings
from ghrunner_vm.errors import GhvmError
from ghrunner_vm.finding import Finding, failed, of_error, ok, warning
from ghrunner_vm.github.client import GitHub
from ghrunner_vm.github.connect import github_client
from ghrunner_vm.github.inspection import access, clock, inspect
from ghrunner_vm.images.manifest import Manifest
from ghrunner_vm.images.remote import ImageServer
from ghrunner_vm.images.store import ImageStore
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
