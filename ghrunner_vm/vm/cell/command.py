"""The commands that start a VMM in a cell, or in a nest."""

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

import ghrunner_vm
from ghrunner_vm import process
from ghrunner_vm.vm.cell.view import SYSTEM

RESOLVER = "/etc/resolv.conf"
"""Where QEMU's own network stack finds the name server that it forwards to."""

_ALWAYS = ("/dev/null", "/dev/zero", "/dev/urandom")
_PACKAGES = str(Path(ghrunner_vm.__file__).parents[1])
# -I and -S, for it to start fast and to import nothing but Python's and ours.
_START = "import sys; sys.path.append(sys.argv.pop(1)); from ghrunner_vm.vm.cell.{} import main; main()"
_PROGRAMS = ("bin", "sbin", "libexec")
_BESIDE_PROGRAMS = ("lib", "lib64", "share/qemu", "share/qemu-firmware")


@dataclass(frozen=True)
class Cell:
    """What a VMM has besides the descriptors that it inherits."""

    devices: Sequence[str] = ()
    """Device files, besides those that any program may need. What is not there is left out."""
    own_network: bool = True
    """A network namespace without any way out; else it has this host's network."""
    limits: Mapping[str, int] = field(default_factory=dict)
    """By their names in getrlimit(2), without RLIMIT_."""


def in_cell(argv: Sequence[str], cell: Cell, program: str) -> list[str]:
    """`argv` behind walls, for a child of this very process.

    `program` is the one in it that may be installed apart from the distribution's.
    """
    seen = [*_places(program), *(() if cell.own_network else (RESOLVER,))]
    words = [
        f"parent={os.getpid()}",
        *(f"see={place}" for place in seen),
        *(f"device={device}" for device in (*_ALWAYS, *cell.devices) if Path(device).exists()),
        *(("network=own",) if cell.own_network else ()),
        *(f"{name}={value}" for name, value in cell.limits.items()),
    ]
    return _program("main", words, argv)


@dataclass(frozen=True)
class Nest:
    """Where a jailer makes its jail."""

    at: PurePath
    """An empty directory to mount upon."""
    jail: PurePath
    """The jail's root below it."""
    read: Mapping[str, int]
    """Open files that can be read in the jail, by their names there."""
    write: Mapping[str, int]
    """And those that can be written."""
    own_network: bool
    limits: Mapping[str, int] = field(default_factory=dict)
    """By their names in getrlimit(2), without RLIMIT_."""


def in_nest(argv: Sequence[str], nest: Nest) -> list[str]:
    """`argv` in a nest, for a child of this very process, which must be root's."""
    words = [
        *(f"parent={os.getpid()}", f"at={nest.at}", f"jail={nest.jail}"),
        *(f"read={descriptor}:{name}" for name, descriptor in nest.read.items()),
        *(f"write={descriptor}:{name}" for name, descriptor in nest.write.items()),
        *(("network=own",) if nest.own_network else ()),
        *(f"{name}={value}" for name, value in nest.limits.items()),
    ]
    return _program("nest", words, argv)


def _program(module: str, words: Sequence[str], argv: Sequence[str]) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", _START.format(module), _PACKAGES, *words, "--", *argv]


def _places(program: str) -> list[str]:
    """Directories of a program and of what is installed with it, as far as those of the system do not have them."""
    found = shutil.which(program, path=process.environment()["PATH"]) or program
    places = [place for name in (found, os.path.realpath(found)) for place in _around(Path(name))]
    return [str(place) for place in dict.fromkeys(places) if not any(map(place.is_relative_to, SYSTEM))]


def _around(program: Path) -> list[Path]:
    # Not the whole of ~/.local or /opt: only what a QEMU looks for.
    directory = program.parent
    beside = [directory.parent / name for name in _BESIDE_PROGRAMS] if directory.name in _PROGRAMS else []
    return [place for place in (directory, *beside) if place.exists()]
