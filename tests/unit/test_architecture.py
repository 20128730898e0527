"""The direction of imports, checked by import-linter from pyproject.toml."""

from importlinter.cli import lint_imports


def test_imports_point_downwards_and_pure_modules_do_no_io() -> None:
    assert lint_imports(no_cache=True) == 0
