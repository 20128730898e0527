"""Which images of the cache may go, and their deletion. What is in use never goes."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from ghrunner_vm.images.store import CachedImage, ImageStore


@dataclass(frozen=True)
class Rules:
    """Each rule that is not None is a reason to go; an image needs only one.

    `keep`: not among so many newest of its name. `older_than`: completed so many seconds ago or more. `max_size`: the
    oldest of all go until the whole cache takes no more bytes; what is in use counts, and stays.
    """

    keep: int | None = None
    older_than: float | None = None
    max_size: int | None = None
    everything: bool = False


@dataclass(frozen=True)
class PrunedImage:
    """An image that was deleted, and the bytes this freed."""

    commit: str
    name: str
    bytes: int


def may_go(images: Sequence[CachedImage], rules: Rules, names: Collection[str] = ()) -> list[CachedImage]:
    """The images, of all there are (the newest first), that the rules let go and nobody uses; only those of `names`.

    Without names all may go.
    """
    eligible = [image for image in images if not image.in_use and (not names or image.name in names)]
    of_name: defaultdict[str, int] = defaultdict(int)
    going, left = [], sum(image.size for image in images)
    for image in images:
        of_name[image.name] += 1
        beyond = rules.keep is not None and of_name[image.name] > rules.keep
        old = rules.older_than is not None and image.age_seconds >= rules.older_than
        if (beyond or old or rules.everything) and image in eligible:
            going.append(image)
            left -= image.size
    if rules.max_size is not None:
        for image in reversed([image for image in eligible if image not in going]):
            if left <= rules.max_size:
                break
            going.append(image)
            left -= image.size
    return going


def remove(store: ImageStore, images: Sequence[CachedImage]) -> Iterator[PrunedImage]:
    """Delete these images, those that somebody has begun to use meanwhile excepted; and what crashed pulls left."""
    for image in images:
        freed = store.remove(image.commit, image.name)
        if freed is not None:
            yield PrunedImage(image.commit, image.name, freed)
    store.clear_leftovers()


def prune(store: ImageStore, keep: int = 2) -> list[PrunedImage]:
    """Delete all but the `keep` (at least 1) newest images of each name."""
    if keep < 1:
        raise ValueError("keep must be at least 1")
    return list(remove(store, may_go(store.images(), Rules(keep=keep))))
