"""Buildah, which needs no daemon and has no export: the container's directory is read with GNU tar."""

import json
import os
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

# Every extended attribute, file capabilities among them, but not the host's SELinux labels. Sorted and without the
# times of reading, so that the same files give the same archive. Not --sparse: not every reader knows it, and Docker
# does not write it either.
_EXPORT = """
directory=$(buildah mount "$1")
exec tar --create --file=- --directory="$directory" --format=posix --pax-option=delete=atime,delete=ctime \\
    --sort=name --numeric-owner --one-file-system \\
    --xattrs --xattrs-include='*' --xattrs-exclude=security.selinux .
"""


@dataclass(frozen=True)
class Buildah:
    """`buildah`. See Builder."""

    name: str = "buildah"

    @property
    def left(self) -> str | None:
        """See Builder."""
        return "buildah keeps the layers for the next build; `buildah rmi --prune` removes them" if _layers() else None

    def check(self) -> None:
        """See Builder."""
        ask(*(("buildah", "info") if os.geteuid() == 0 else ("buildah", "unshare", "true")))

    def build(self, recipe: Recipe, iidfile: Path, tell: Tell) -> None:
        """See Builder."""
        argv = ("buildah", "bud", "--iidfile", str(iidfile), *recipe.options)
        output.narrated(argv, timeout=BUILD_SECONDS, tell=tell, env=environment())

    def config(self, image: str) -> ImageConfig:
        """See Builder."""
        described = json.loads(ask("buildah", "inspect", "--type", "image", image))
        return ImageConfig.model_validate(described["OCIv1"]["config"])

    def create(self, image: str, container: str) -> None:
        """See Builder."""
        ask("buildah", "from", "--pull-never", "--name", container, image)

    def export(self, container: str) -> AbstractContextManager[BufferedReader]:
        """See Builder."""
        # An ordinary user's mounts, and the owners of the files, exist only in a namespace that buildah makes.
        inside = () if os.geteuid() == 0 else ("buildah", "unshare")
        argv = (*inside, "sh", "-euc", _EXPORT, "sh", container)
        return output.streamed(argv, patience=PATIENCE_SECONDS, env={**environment(), "LC_ALL": "C"})

    def remove(self, container: str) -> None:
        """See Builder. This unmounts it as well."""
        try:
            ask("buildah", "rm", container)
        except process.CommandFailed as error:
            if "container not known" not in error.output:
                raise

    def forget(self, image: str) -> None:
        """Without layers each build makes an image anew, so that this one is nobody else's and no cache."""
        if not _layers():
            ask("buildah", "rmi", image)


def _layers() -> bool:
    """Whether the person wants buildah to keep layers; see buildah-build(1)."""
    return os.environ.get("BUILDAH_LAYERS", "").lower() in ("true", "1")
