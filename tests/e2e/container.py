"""The base of a container image where no registry can be reached: the distribution, under the name that it has there.

What the Dockerfile of `ghvm images init` installs is in it already, and its apt has nowhere else to look: a build of it
takes seconds, and no network.
"""

import hashlib
import platform
import re
import shlex
from pathlib import Path

from ghrunner_vm import process
from ghrunner_vm.images.build.builder import environment
from tests.e2e import debian
from tests.kept import once

_HOST = platform.freedesktop_os_release()
DISTRIBUTION = f"{_HOST['ID']}-{_HOST['VERSION_ID']}"
"""As `ghvm images init --distribution` calls this host's."""
_INSTALL = re.compile(r"apt-get install -y --no-install-recommends (.*?)&&", re.DOTALL)
_INSTALL_SECONDS = 600.0
_SECONDS = 300.0


def base(cache: Path, dockerfile: str) -> Path:
    """A tar of the distribution with the packages of a Dockerfile. Made once for each list of them.

    Safe to call from several processes at once: the second waits for the first.
    """
    sources, packages = debian.sources(), _packages(dockerfile)
    fingerprint = hashlib.sha256(repr((sources, packages)).encode()).hexdigest()[:16]

    def make(work: Path) -> Path:
        options = ("--variant=minbase", f"--include={','.join(packages)}", "--dpkgopt=path-exclude=/usr/share/doc/*")
        argv = ["mmdebstrap", *options, _HOST["VERSION_CODENAME"], str(work / "base.tar"), *sources]
        process.run(argv, timeout=_INSTALL_SECONDS, env={"INITRD": "No"})
        return work / "base.tar"

    return once(cache, "base", fingerprint, make)


def offer(tar: Path, dockerfile: str, scratch: Path) -> None:
    """Let buildah find the tar as what the Dockerfile begins with. `scratch` is an empty file."""
    match = re.search(r"^FROM (\S+)", dockerfile, re.MULTILINE)
    assert match is not None
    container = _buildah("from", "scratch").strip()
    _buildah("add", container, str(tar), "/")
    _buildah("copy", container, str(scratch), "/etc/apt/sources.list")
    _buildah("commit", "--rm", container, f"docker.io/library/{match[1]}")


def _buildah(*words: str) -> str:
    return process.run(["buildah", *words], timeout=_SECONDS, env=environment())


def _packages(dockerfile: str) -> list[str]:
    lines = [line for line in dockerfile.splitlines() if not line.lstrip().startswith("#")]
    architecture = process.run(["dpkg", "--print-architecture"], timeout=_SECONDS).strip()
    plain = "\n".join(lines).replace("\\\n", " ").replace("$(dpkg --print-architecture)", architecture)
    return sorted({name for found in _INSTALL.findall(plain) for name in shlex.split(found)})
