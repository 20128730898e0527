"""What an installer does to a package, and what a checkout may lack: without bytecode a start costs far more."""

import compileall
from pathlib import Path

import ghrunner_vm


def compiled() -> None:
    """Have bytecode beside the package's modules, whatever PYTHONDONTWRITEBYTECODE says."""
    compileall.compile_dir(Path(ghrunner_vm.__file__).parent, quiet=1)
