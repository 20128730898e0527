"""A small context for container builders, and stand-ins for them: real programs that note what they are told."""

import io
import secrets
import tarfile
from pathlib import Path

CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")
"""cap_net_raw+ep as it lies in security.capability: see linux/capability.h."""
ID = "sha256:" + "5a" * 32

_STAND_IN = """#!/bin/sh
# Stands in for docker or podman: notes its arguments and does what the test wants of this subcommand.
printf '%s\\n' "$*" >>{notes}
env >>{notes}.env
set -eu
case "$1" in
version|info) {check} ;;
build)
    while [ "$1" != --iidfile ]; do shift; done
    {build} ;;
image) echo '{{"Env":["PATH=/bin","GREETING=hello world"],"WorkingDir":"/srv/work"}}' ;;
create) {create} ;;
export) {export} ;;
rm) {rm} ;;
esac
"""

_BUILDAH = """#!/bin/sh
# Stands in for buildah: notes its arguments, and has one container with the files of a directory.
printf '%s\\n' "$1 ${{2-}} ${{3-}}" >>{notes}
set -eu
case "$1" in
unshare) shift; exec "$@" ;;
bud)
    while [ "$1" != --iidfile ]; do shift; done
    printf {id} >"$2" ;;
inspect) echo '{{"OCIv1":{{"config":{{"Env":["PATH=/bin"]}}}}}}' ;;
mount) echo {files} ;;
rm) {rm} ;;
esac
"""


def context(directory: Path, *instructions: str, busybox: Path = Path("/bin/busybox")) -> Path:
    """A directory with a Dockerfile that begins with busybox alone, and goes on with these instructions."""
    directory.mkdir()
    with tarfile.open(directory / "base.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("bin/busybox", "bin/ping"):
            entry = archive.gettarinfo(str(busybox), name)
            entry.uid = entry.gid = 0
            if name == "bin/ping":
                # PAX headers are UTF-8; tarfile writes what is none as it is.
                entry.pax_headers = {"SCHILY.xattr.security.capability": CAPABILITY.decode("utf-8", "surrogateescape")}
            with busybox.open("rb") as content:
                archive.addfile(entry, content)
        # Another one each time: Docker would know the steps that follow, and not run them again.
        archive.addfile(tarfile.TarInfo(f"etc/{secrets.token_hex(8)}"))
        for applet in ("sh", "sleep", "echo"):
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(link)
    lines = ("FROM scratch", "ADD base.tar /", "ENV PATH=/bin", *instructions)
    (directory / "Dockerfile").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return directory


def stand_in(
    directory: Path,
    name: str,
    *,
    check: str = "echo 1.0",
    build: str = f'printf {ID} >"$2"',
    create: str = "echo made",
    export: str = "cat files.tar",
    rm: str = "true",
) -> Path:
    """A builder of this name in `directory`; where it notes its arguments, a line for each call."""
    notes = directory / f"{name}.notes"
    program = directory / name
    parts = {"check": check, "build": build, "create": create, "export": export, "rm": rm}
    program.write_text(_STAND_IN.format(notes=notes, **parts), encoding="utf-8")
    program.chmod(0o755)
    return notes


def archive() -> bytes:
    """A tar of one file."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        entry = tarfile.TarInfo("etc/hostname")
        entry.size = 5
        tar.addfile(entry, io.BytesIO(b"hello"))
    return packed.getvalue()


def stand_in_buildah(directory: Path, files: Path, *, rm: str = "true") -> Path:
    """A buildah in `directory`, whose containers have these files; where it notes its arguments."""
    notes = directory / "buildah.notes"
    program = directory / "buildah"
    program.write_text(_BUILDAH.format(notes=notes, id=ID, files=files, rm=rm), encoding="utf-8")
    program.chmod(0o755)
    return notes
