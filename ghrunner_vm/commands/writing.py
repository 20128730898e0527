"""Files of this host that commands write for everybody to read."""

from pathlib import Path

from ghrunner_vm.errors import PermanentError, is_disk_full
from ghrunner_vm.files import write_atomically


def write_for_all(path: Path, text: str, resolution: str) -> None:
    """Write a file and make the directory it is in. Raises PermanentError, which says to do as `resolution` tells."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.encode(), mode=0o644)
    except OSError as error:
        if is_disk_full(error):
            raise
        raise PermanentError(f"{path} cannot be written: {error.strerror}", resolution=resolution) from error
