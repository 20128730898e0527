"""Docker, and Podman, whose commands are the same."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from ghrunner_vm import process
from ghrunner_vm.images.build.builder import (
    BUILD_SECONDS,
    PATIENCE_SECONDS,
    ImageConfig,
    Recipe,
    Tell,
    ask,
    environment,
)
from ghrunner_vm.process import output

# Only a daemon, or a storage, that answers proves that they work; the client alone is not enough.
_PROOF = {"docker": ("version", "--format", "{{.Server.Version}}"), "podman": ("info", "--format", "{{.Host.OS}}")}


@dataclass(frozen=True)
class Docker:
    """`docker` or `podman`. They keep what they built: it is the cache of the next build. See Builder."""

    name: str

    @property
    def left(self) -> str:
        """See Builder."""
        return f"{self.name} keeps the layers for the next build; `{self.name} image prune` removes them"

    def check(self) -> None:
        """See Builder."""
        ask(self.name, *_PROOF[self.name])

    def build(self, recipe: Recipe, iidfile: Path, tell: Tell) -> None:
        """See Builder."""
        # --force-rm: the older builder of Docker leaves the container of a step that failed.
        argv = (self.name, "build", "--force-rm", "--iidfile", str(iidfile), *recipe.options)
        # Podman (seen in 4.3) ends at once at SIGTERM and leaves its working containers, but not when a step fails.
        # Docker's daemon removes them in any case.
        from_below = self.name == "podman"
        output.narrated(argv, timeout=BUILD_SECONDS, tell=tell, env=environment(), from_below=from_below)

    def config(self, image: str) -> ImageConfig:
        """See Builder."""
        return ImageConfig.model_validate_json(
            ask(self.name, "image", "inspect", "--format", "{{json .Config}}", image)
        )

    def create(self, image: str, container: str) -> None:
        """See Builder."""
        # It never runs, but an image that names no command would be refused without one.
        ask(self.name, "create", "--name", container, "--network", "none", image, "/sbin/init")

    def export(self, container: str) -> AbstractContextManager[BufferedReader]:
        """See Builder."""
        return output.streamed((self.name, "export", container), patience=PATIENCE_SECONDS, env=environment())

    def remove(self, container: str) -> None:
        """See Builder."""
        try:
            ask(self.name, "rm", "--force", "--volumes", container)
        except process.CommandFailed as error:
            if "no such container" not in error.output.lower():  # newer ones do not mind
                raise

    def forget(self, image: str) -> None:
        """Nothing: who removes the image removes the cache, and perhaps an image that has a name."""
