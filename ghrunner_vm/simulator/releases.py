"""What a runner's download leads to: a small tarball laid out as GitHub's, with the stand-in for the listener in it."""

import functools
import gzip
import hashlib
import io
import re
import tarfile
from importlib.resources import files

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

ARCHITECTURES = ("x64", "arm64", "arm")
BUILT = 1_788_220_800
"""When the tarballs say that they were built, in seconds since 1970: 2026-09-01."""

_VERSION = re.compile(r"[0-9]{1,5}(\.[0-9]{1,5}){2}")
_LINE = re.compile(rb"^VERSION=.*$", re.MULTILINE)
_RUN = b"""#!/bin/sh
exec "$(dirname "$0")/bin/Runner.Listener" run "$@"
"""


class Releases:
    """Handlers that anybody may ask, as those of github.com/actions/runner/releases. Every version can be had."""

    def application(self) -> Starlette:
        """The routes, below the URL of the releases."""
        return Starlette(routes=[Route("/download/v{version}/{filename}", self.download, methods=["GET"])])

    async def download(self, request: Request) -> Response:
        """`GET download/v{version}/{filename}`"""
        version = request.path_params["version"]
        names = {filename(version, architecture) for architecture in ARCHITECTURES}
        if _VERSION.fullmatch(version) is None or request.path_params["filename"] not in names:
            return PlainTextResponse("Not Found", 404)
        return Response(tarball(version), media_type="application/octet-stream")


def filename(version: str, architecture: str) -> str:
    """How GitHub calls the tarball for Linux."""
    return f"actions-runner-linux-{architecture}-{version}.tar.gz"


def described(version: str, architecture: str, base_url: str) -> dict[str, str]:
    """`runner-application` of GitHub's OpenAPI description."""
    name = filename(version, architecture)
    return {
        "os": "linux",
        "architecture": architecture,
        "download_url": f"{base_url}/download/v{version}/{name}",
        "filename": name,
        "sha256_checksum": hashlib.sha256(tarball(version)).hexdigest(),
    }


@functools.lru_cache(maxsize=8)
def tarball(version: str) -> bytes:
    """The runner of a version: a shell script runs on each architecture. The same bytes each time."""
    listener = files("ghrunner_vm.simulator").joinpath("guest/Runner.Listener").read_bytes()
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", filename="", mtime=BUILT) as compressed,
        tarfile.open(fileobj=compressed, mode="w") as archive,
    ):
        _add(archive, "./bin/Runner.Listener", _LINE.sub(f"VERSION={version}".encode(), listener, count=1))
        _add(archive, "./run.sh", _RUN)
    return packed.getvalue()


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = len(content), 0o755, BUILT
    entry.uid = entry.gid = 1001  # as in GitHub's own
    archive.addfile(entry, io.BytesIO(content))
