"""Finds UEFI firmware as its packages announce it (docs/interop/firmware.json in QEMU) and opens it for one machine."""

import contextlib
import fnmatch
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

import platformdirs
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ghrunner_vm.errors import PermanentError
from ghrunner_vm.vm.base import Arch
from ghrunner_vm.vm.qemu.commandline import Firmware, Flash, Rom

# The name of every version of the board begins like this, and announcements name them all: "virt-*".
_MACHINE = "virt-"
# Firmware with these takes only loaders that somebody signed, or a board with a protected mode.
_UNWANTED = frozenset({"secure-boot", "enrolled-keys", "requires-smm"})
_MAX_BYTES = 1 << 16
_MAX_VARIABLES = 256 << 20
_BLOCK = 1 << 16


class _Announced(BaseModel):
    """What is needed of QEMU's format; its keys grow with QEMU's versions, so others are let pass."""

    model_config = ConfigDict(frozen=True, strict=True, alias_generator=lambda field: field.replace("_", "-"))


class _File(_Announced):
    filename: Annotated[Path, Field(strict=False)]
    format: Literal["raw", "qcow2"]


class _FlashMapping(_Announced):
    device: Literal["flash"]
    mode: Literal["split", "stateless"] = "split"
    executable: _File
    nvram_template: _File | None = None


class _MemoryMapping(_Announced):
    device: Literal["memory"]
    filename: Annotated[Path, Field(strict=False)]


class _Target(_Announced):
    architecture: str
    machines: list[str]


class _Description(_Announced):
    interface_types: list[str]
    mapping: Annotated[_FlashMapping | _MemoryMapping, Field(discriminator="device")]
    targets: list[_Target]
    features: list[str]

    def fits(self, arch: Arch) -> bool:
        """Whether this is UEFI for the architecture, without a demand on what it starts."""
        uefi = "uefi" in self.interface_types and _UNWANTED.isdisjoint(self.features)
        machines = [name for target in self.targets if target.architecture == arch for name in target.machines]
        return uefi and any(fnmatch.fnmatchcase(_MACHINE, pattern) for pattern in machines)


def directories() -> list[Path]:
    """Where firmware is announced, the most important place last. A user's own counts unless that user is root."""
    own = platformdirs.user_config_path("qemu") / "firmware"
    shared = [Path("/usr/share/qemu/firmware"), Path("/etc/qemu/firmware")]
    return shared if os.geteuid() == 0 else [*shared, own]


@contextlib.contextmanager
def uefi(arch: Arch, places: Sequence[Path] | None = None) -> Iterator[Firmware]:
    """The first fitting firmware, open; its variables are a copy in memory. Raises PermanentError if there is none."""
    mapping = _find(arch, directories() if places is None else places)
    with contextlib.ExitStack() as stack:

        def opened(path: Path) -> int:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, descriptor)
            return descriptor

        try:
            firmware = _rom(mapping, opened) if isinstance(mapping, _MemoryMapping) else _flash(mapping, opened, stack)
        except OSError as error:
            raise PermanentError(
                f"The firmware for {arch} guests cannot be used: {error.filename}: {error.strerror}",
                resolution="Install its package again.",
            ) from error
        yield firmware


def _find(arch: Arch, places: Sequence[Path]) -> _FlashMapping | _MemoryMapping:
    # A file in a later place stands for the one of that name in an earlier place; an empty one stands for none.
    files = {file.name: file for place in places for file in sorted(place.glob("*.json"))}
    for _, file in sorted(files.items()):
        described = _described(file)
        if described is not None and described.fits(arch):
            return described.mapping
    raise PermanentError(
        f"No UEFI firmware for {arch} guests is installed",
        details=f"None is announced in {', '.join(map(str, places))}, and this image boots through firmware.",
        resolution="On Debian and Ubuntu: apt-get install qemu-efi-aarch64. On Fedora: dnf install edk2-aarch64.",
    )


def _described(file: Path) -> _Description | None:
    """What a file announces; None if it is for something else, as other boards have other forms, or unreadable."""
    with contextlib.suppress(OSError, ValidationError), file.open("rb") as opened:
        return _Description.model_validate_json(opened.read(_MAX_BYTES))
    return None


def _rom(mapping: _MemoryMapping, opened: Callable[[Path], int]) -> Firmware:
    return Rom(opened(mapping.filename))


def _flash(mapping: _FlashMapping, opened: Callable[[Path], int], stack: contextlib.ExitStack) -> Firmware:
    code, template = mapping.executable, mapping.nvram_template
    if mapping.mode == "stateless" or template is None:
        return Flash(opened(code.filename), code.format)
    variables = stack.enter_context(_copy(opened(template.filename)))
    return Flash(opened(code.filename), code.format, variables, template.format)


@contextlib.contextmanager
def _copy(template: int) -> Iterator[int]:
    # A file without a name: it is gone with the machine. Most of it is zeros, which take no memory if not written.
    size = min(os.fstat(template).st_size, _MAX_VARIABLES)
    descriptor = os.memfd_create("firmware-variables")
    try:
        os.ftruncate(descriptor, size)
        for offset in range(0, size, _BLOCK):
            block = os.pread(template, _BLOCK, offset)
            if block.count(0) != len(block):
                os.pwrite(descriptor, block, offset)
        yield descriptor
    finally:
        os.close(descriptor)
