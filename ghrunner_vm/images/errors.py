"""What can go wrong between an image server and a machine that boots."""

from pathlib import Path

from ghrunner_vm.errors import ExitCode, GhvmError, InfrastructureError, PermanentError


class ImageMissing(InfrastructureError):
    """The image is not where it was looked for: not in the cache, or not on the server."""


class ImageCorrupt(InfrastructureError):
    """The content is not what its manifest says. The bad copy is out of the way, so a pull fetches it again."""


class ImageServerUnreachable(InfrastructureError):
    """The server did not answer, or answered that it cannot serve now. A cached image may do."""


class ImageServerNonsense(InfrastructureError):
    """The server gave an answer that no image server gives."""


class ImageUntrusted(InfrastructureError):
    """The image is not signed as this host wants it. A cached image that is may do.

    No permanent error: a server that serves a bad signature for an hour must not stop a fleet for longer.
    """


class RunnerTooOld(PermanentError):
    """GitHub refuses the runner in the image, or soon will. Only a newly built image helps."""


class CacheNotWritable(PermanentError):
    """The cache is on a read-only file system, or its mode forbids writing. What is complete in it can be used."""


class UnsafeCache(PermanentError):
    """Somebody else could change what lies in the cache."""


class PullCancelled(GhvmError):
    """Somebody asked the pull to stop. What has come so far stays in the staging directory."""

    exit_code = ExitCode.INTERRUPTED


def unsafe(path: Path, why: str) -> UnsafeCache:
    """The error for something in the cache that others could have changed."""
    return UnsafeCache(
        "The image cache is not safe to use",
        details=f"{path}: {why}",
        resolution="Remove it, or take it back with `chown` and `chmod go-w`, or choose another --images-cache-dir.",
    )


def corrupt(brief: str, details: str) -> ImageCorrupt:
    """The error for content that is not what it should be."""
    return ImageCorrupt(
        brief, details=details, resolution="Pull it again; if it happens again, look at the image server or the disk."
    )


def mismatch(what: str, expected: str, found: str) -> ImageCorrupt:
    """The error for a hash that is not the manifest's."""
    return corrupt(f"The image {what} is corrupt", f"sha256 expected {expected}\nsha256 found    {found}")
