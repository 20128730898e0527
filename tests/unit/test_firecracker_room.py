"""A disk of the host's that fills up."""

import asyncio
import os
from pathlib import Path

import pytest

from ghrunner_vm import process
from ghrunner_vm.vm.firecracker.room import until_full

_SECONDS = 20.0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_it_is_seen_once_the_disk_is_full(tmp_path: Path) -> None:
    process.run(["mount", "-t", "tmpfs", "-o", "size=1m", "small", str(tmp_path)], timeout=_SECONDS)
    try:
        with (tmp_path / "scratch").open("wb") as scratch:

            async def go() -> bool:
                watching = asyncio.create_task(until_full(scratch.fileno(), pause=0.01, least=1 << 18))
                done, _ = await asyncio.wait({watching}, timeout=0.1)
                scratch.write(bytes((1 << 20) - (1 << 17)))
                scratch.flush()
                await asyncio.wait_for(watching, _SECONDS)
                return bool(done)

            assert not asyncio.run(go())
    finally:
        process.run(["umount", str(tmp_path)], timeout=_SECONDS)
