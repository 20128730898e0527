"""Publishing into a directory: each file is staged and renamed."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from ghrunner_vm import files
from ghrunner_vm.errors import UsageError
from ghrunner_vm.images.locking import lock_within
from ghrunner_vm.images.manifest import Manifest, check_name
from ghrunner_vm.images.target import Came, Source

_BLOCK = 1 << 20
_LOCK_SECONDS = 3600.0
_STAGED = ".part"


class DirectoryTarget:
    """The directory `root`, made if it is missing; others may read what is put there.

    What the latest commit has already is linked, not copied: to sign an image anew costs no room.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._before: dict[str, Path] = {}

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """See Target. What a publish that was killed left half written goes."""
        try:
            _make(self._root)
        except OSError as error:
            raise UsageError(f"{self._root} cannot be published to: {error.strerror}") from error
        with lock_within(self._root / ".lock", _LOCK_SECONDS):
            for staged in self._root.glob(f"images/*/.*{_STAGED}"):
                staged.unlink(missing_ok=True)
            self._before = dict(_artifacts(self._root))
            yield

    def has(self, path: str, source: Source) -> bool:
        """See Target. A file has its name only once it is whole."""
        file = self._root / path
        if not isinstance(source.content, Path):
            return False
        if file.is_file() and file.stat().st_size == source.size:
            return True
        known = self._before.get(source.content.stem)  # the copies in the cache are called by their content's hash
        return known is not None and self._linked(known, file)

    def put(self, path: str, source: Source, came: Came) -> None:
        """See Target."""
        file = self._root / path
        _make(file.parent)
        staged = file.with_name(f".{file.name}{_STAGED}")
        staged.unlink(missing_ok=True)
        done = 0
        with source.open() as content, staged.open("xb") as copy:
            os.fchmod(copy.fileno(), 0o644)
            while block := content.read(_BLOCK):
                copy.write(block)
                done += len(block)
                came(done)
            copy.flush()
            os.fsync(copy.fileno())
        staged.replace(file)
        files.sync_directory(file.parent)

    def _linked(self, known: Path, file: Path) -> bool:
        with contextlib.suppress(OSError):  # removed meanwhile, or no links here
            _make(file.parent)
            file.unlink(missing_ok=True)
            file.hardlink_to(known)
            return True
        return False


def _artifacts(root: Path) -> Iterator[tuple[str, Path]]:
    """The compressed artifacts of the latest commit's bundles, by the hashes of their content."""
    with contextlib.suppress(OSError, ValueError):
        home = root / "images" / check_name((root / "latest").read_text(encoding="utf-8").strip())
        for path in home.glob("*.json"):
            for name, artifact in Manifest.parse(path.read_bytes()).artifacts.items():
                yield artifact.sha256, home / f"{name}.zst"


def _make(directory: Path) -> None:
    """With its parents, for all to read whatever the umask."""
    if not directory.is_dir():
        _make(directory.parent)
        directory.mkdir(exist_ok=True)
        directory.chmod(0o755)
