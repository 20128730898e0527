"""Whether the image server has a newer image than the one a machine runs."""

from collections.abc import Callable

from ghrunner_vm.images.manifest import Manifest
from ghrunner_vm.images.pull import pull
from ghrunner_vm.images.remote import ImageServer
from ghrunner_vm.images.store import ImageStore, LeasedImage


def newer(
    server: ImageServer,
    store: ImageStore,
    running: LeasedImage,
    *,
    cancelled: Callable[[], bool] = lambda: False,
    accept: Callable[[Manifest], object] = lambda _manifest: None,
) -> str | None:
    """The commit of a newer image of the same name, which is then in the cache and verified; else None.

    A new commit whose image has the same content is not newer: asking costs two short requests then, and one while
    the commit is the same. `cancelled` and `accept` are those of `pull`. Whatever is wrong with a new publish, its
    signature included, raises as `pull` and `ImageStore.lease` do; the running image is never touched. Blocks while it
    downloads. What is only looked at is not remembered as used: its publisher may take it back.
    """
    commit = server.latest()
    if commit == running.commit or server.manifest(commit, running.name).same_content(running.manifest):
        return None
    pull(store, server, running.name, commit=commit, cancelled=cancelled, accept=accept)
    with store.lease(commit, running.name) as image:  # somebody else may have pulled it, so it is verified here
        accept(image.manifest)
    return commit
