"""Delete the images that newer ones have replaced and nobody uses."""

from collections import defaultdict
from dataclasses import dataclass

from ghrunner_vm.images.store import CachedImage, ImageStore


@dataclass(frozen=True)
class PrunedImage:
    """An image that was deleted, and the bytes this freed."""

    commit: str
    name: str
    bytes: int


def prune(store: ImageStore, keep: int = 2) -> list[PrunedImage]:
    """Delete all but the `keep` (at least 1) newest images of each name, skipping what is in use.

    Also deletes what interrupted pulls left behind, unless somebody pulls there now.
    """
    if keep < 1:
        raise ValueError("keep must be at least 1")
    by_name: defaultdict[str, list[CachedImage]] = defaultdict(list)
    for image in store.images():
        by_name[image.name].append(image)
    pruned = []
    for images in by_name.values():
        for image in images[keep:]:
            freed = store.remove(image.commit, image.name)
            if freed is not None:
                pruned.append(PrunedImage(image.commit, image.name, freed))
    store.clear_leftovers()
    return pruned
