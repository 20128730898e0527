"""What can go wrong between an image server and a machine that boots."""

from ghrunner_vm.errors import ExitCode, GhvmError, InfrastructureError, PermanentError


class ImageMissing(InfrastructureError):
    """The image is not where it was looked for: not in the cache, or not on the server."""


class ImageCorrupt(InfrastructureError):
    """The content is not what its manifest says. The bad copy is out of the way, so a pull fetches it again."""


class ImageServerUnreachable(InfrastructureError):
    """The server did not answer, or answered that it cannot serve now. A cached image may do."""


class UnsafeCache(PermanentError):
    """Somebody else could change what lies in the cache."""


class PullCancelled(GhvmError):
    """Somebody asked the pull to stop. What is complete stays in the staging directory."""

    exit_code = ExitCode.INTERRUPTED
