"""Whether a run can boot an image: what it is made for, and how old the runner in it is."""

from collections.abc import Callable
from dataclasses import dataclass, field

from ghrunner_vm.clock import Clock
from ghrunner_vm.errors import PermanentError
from ghrunner_vm.images import ageing
from ghrunner_vm.images.manifest import Manifest
from ghrunner_vm.spec import Spec


@dataclass
class Acceptance:
    """What one run accepts. `newest` asks GitHub which runner it serves; it is asked until it has told, not oftener."""

    spec: Spec
    runner_max_age_days: int
    clock: Clock
    newest: Callable[[], str | None]
    _told: str | None = field(default=None, init=False)

    def __call__(self, manifest: Manifest) -> ageing.Runner:
        """The runner in the image. Blocks for as long as GitHub takes. Raises PermanentError."""
        _check(manifest, self.spec)
        runner = ageing.runner(manifest, self.clock.today(), self.runner_max_age_days, self._newest)
        ageing.require_young(runner, self.runner_max_age_days)
        return runner

    def _newest(self) -> str | None:
        if self._told is None:
            self._told = self.newest()
        return self._told


def _check(manifest: Manifest, spec: Spec) -> None:
    if manifest.arch is not None and manifest.arch != spec.arch:
        raise PermanentError(
            f"The image {manifest.name} is made for {manifest.arch}, the spec says {spec.arch}",
            resolution='Change "arch" or "image" in the spec.',
        )
    if spec.engine not in manifest.engine:
        raise PermanentError(
            f"The image {manifest.name} is not made for the engine {spec.engine}",
            details=f"It is for {' and '.join(manifest.engine)}.",
            resolution=f'Build it with --engine {spec.engine}, or change "engine" in the spec.',
        )
