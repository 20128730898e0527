"""`NAME[@COMMIT]`: an image of the cache, on the command line."""

from dataclasses import dataclass

from ghrunner_vm import config
from ghrunner_vm.config import Settings
from ghrunner_vm.errors import UsageError
from ghrunner_vm.images.manifest import check_name
from ghrunner_vm.images.store import ImageStore
from ghrunner_vm.images.trust import trust
from ghrunner_vm.suggest import did_you_mean


@dataclass(frozen=True)
class Reference:
    """An image by its name and its commit."""

    name: str
    commit: str

    def __str__(self) -> str:
        return f"{self.name} {self.commit[:12]}"


def cache(settings: Settings) -> ImageStore:
    """The cache, which is not made. Raises UsageError if there is none."""
    directory = config.images_directory(settings)
    if not directory.exists():
        raise UsageError(f"there is no image cache {directory}")
    return ImageStore(directory, trust=trust(settings))


def resolve(text: str, store: ImageStore) -> Reference:
    """The image that is meant: without a commit the newest of its name, and a commit by its beginning.

    Raises UsageError unless the cache has exactly one.
    """
    name, at, beginning = text.partition("@")
    try:
        check_name(name)
    except ValueError as error:
        raise UsageError(f"{text!r} is not NAME or NAME@COMMIT", details=str(error)) from error
    if not at:
        newest = store.newest(name, trusted=False)
        if newest is None:
            raise _unknown(name, store)
        return Reference(name, newest)
    found = [image.commit for image in store.images() if image.name == name and image.commit.startswith(beginning)]
    if len(found) != 1 or not beginning:
        commits = ", ".join(found) or "none"
        raise UsageError(f"the cache has no single image {text}", details=f"It has: {commits}.")
    return Reference(name, found[0])


def _unknown(name: str, store: ImageStore) -> UsageError:
    known = {image.name for image in store.images()}
    resolution = did_you_mean(name, known) if known else f"Fetch it with `ghvm images pull {name}`."
    return UsageError(f"the cache has no image {name}", resolution=resolution)
