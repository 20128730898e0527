"""The emulated host while it runs, and what it tells of its tests."""

import contextlib
import json
import select
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ghrunner_vm import process
from tests.kvm import payload, teller
from tests.kvm.system import System

SILENT_SECONDS = 600.0
"""The host has this long for its boot and its first test, and then for each test."""
_CORES = 2
_RAM = "3G"
_WORDS = 20_000

Told = Mapping[str, Any]
"""A report of pytest as JSON."""


class HostGone(Exception):
    """The host has ended, or says nothing any more; the text ends with what its console showed."""


class Host:
    """A host that runs tests, one after another."""

    def __init__(self, reports: socket.socket, console: Path) -> None:
        self._reports = reports
        self._console = console
        self._unread = b""

    def reports(self, test: str) -> list[Told]:
        """All reports on the test that is next: of setup, call and teardown, as far as they were reached."""
        told: list[Told] = []
        while not told or told[-1]["when"] != "teardown":
            told.append(self._next())
            if told[-1]["nodeid"] != test:
                raise HostGone(f"The host told of {told[-1]['nodeid']} instead of this test.{self._words()}")
        return told

    def _next(self) -> Told:
        while b"\n" not in self._unread:
            readable, _, _ = select.select([self._reports], [], [], SILENT_SECONDS)
            if not readable:
                raise HostGone(f"The host told nothing of this test for {SILENT_SECONDS:.0f} s.{self._words()}")
            piece = self._reports.recv(1 << 16)
            if not piece:
                raise HostGone(f"The host ended before this test did.{self._words()}")
            self._unread += piece
        line, _, self._unread = self._unread.partition(b"\n")
        told = json.loads(line)
        assert isinstance(told, dict)
        return told

    def _words(self) -> str:
        text = self._console.read_text(encoding="utf-8", errors="replace")
        return f" Its console:\n{text[-_WORDS:]}"


@contextlib.contextmanager
def boot(system: System, cache: Path, tests: Sequence[str]) -> Iterator[Host]:
    """A host that runs these tests, by their pytest ids; it is ended with the block. What it writes is thrown away."""
    with tempfile.TemporaryDirectory(prefix="ghvm-kvm-") as directory, contextlib.ExitStack() as stack:
        work = Path(directory)
        disk = payload.make(cache, tests, work)
        ours, theirs = socket.socketpair()
        stack.enter_context(ours)
        with theirs:
            console = stack.enter_context((work / "console").open("wb"))
            argv = [
                *("setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64", "-nodefaults", "-no-user-config"),
                *("-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", f"{_CORES}", "-m", _RAM),
                *("-display", "none", "-no-reboot", "-device", "virtio-rng-pci"),
                *_boots(system),
                *("-drive", f"file={system.disk},format=qcow2,if=virtio,snapshot=on,cache=unsafe"),
                *("-drive", f"file={disk},format=raw,if=virtio,cache=unsafe"),
                *("-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"),
                *("-chardev", f"socket,id=reports,fd={theirs.fileno()}", "-device", "virtio-serial"),
                *("-device", f"virtserialport,chardev=reports,name={teller.PORT}"),
            ]
            stack.enter_context(process.start(argv, inherit=[theirs.fileno()], stderr=console.fileno()))
        yield Host(ours, work / "console")


def _boots(system: System) -> tuple[str, ...]:
    cmdline = " ".join(
        (
            "root=/dev/vda rw quiet console=ttyS0",
            # The journal goes there, since nobody can look into a host that has ended.
            "systemd.journald.forward_to_console=1",
            # With the virtual interrupt flag, QEMU 7.2 at times lets an interrupt through right after a guest's exit,
            # before KVM has its own registers back: the host panics (in __svm_vcpu_run) within some ten guests.
            "kvm_amd.vgif=0 kvm_amd.vls=0",
            # A panic ends it, and so the wait for it.
            "panic=-1",
        )
    )
    return ("-kernel", str(system.kernel), "-initrd", str(system.initrd), "-append", cmdline)
