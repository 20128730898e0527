"""The second disk of the emulated host, made for each run: ghvm's wheel, Firecracker, the tests, and their images."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from ghrunner_vm import process
from tests import guests
from tests.kvm import firecracker, layered, pip
from tests.kvm.system import TESTS_LABEL

IMAGES = (guests.TINY, guests.ROOT)
"""The images that the tests on KVM may boot."""

_TREE = Path(__file__).parents[2]
_START = Path(__file__).parent / "start"
_SIZE = "1G"
_SECONDS = 60.0


def make(cache: Path, tests: Sequence[str], work: Path) -> Path:
    """The disk, in the directory `work`; `tests` are the pytest ids of those that the host shall run."""
    content = work / "content"
    content.mkdir()
    pip.build_wheel(content / "wheel")
    shutil.copytree(_TREE / "tests", content / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(_TREE / "pyproject.toml", content / "pyproject.toml")
    shutil.copy(_START, content / "start")
    (content / "selected").write_text("".join(f"{test}\n" for test in tests), encoding="utf-8")
    _copy_images(guests.build(cache), content / "images")
    shutil.copytree(layered.build(cache), content / "images", dirs_exist_ok=True)
    shutil.copytree(firecracker.programs(cache), content / "bin")
    disk = work / "tests.raw"
    argv = ["mkfs.ext4", "-q", "-L", TESTS_LABEL, "-E", "root_owner=0:0", "-d", str(content), str(disk), _SIZE]
    process.run(argv, timeout=_SECONDS)
    return disk


def _copy_images(images: Path, into: Path) -> None:
    into.mkdir()
    for name in IMAGES:
        for file in images.glob(f"{name}.*"):
            shutil.copyfile(file, into / file.name)
