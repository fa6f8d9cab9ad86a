"""The public API is what `dontneed.__all__` names, no more and no less."""

from __future__ import annotations

import ast
from importlib.metadata import version
from pathlib import Path

import dontneed


def test_every_exported_name_resolves() -> None:
    """What is re-exported lazily is there when it is asked for."""
    assert [name for name in dontneed.__all__ if not hasattr(dontneed, name)] == []


def test_every_exported_name_is_documented() -> None:
    """A docstring means public, and public means a docstring."""
    assert [name for name in dontneed.__all__ if not getattr(dontneed, name).__doc__] == []


def test_every_exported_name_is_listed() -> None:
    """Completion in a shell shows lazy names before they are loaded."""
    assert set(dontneed.__all__) - set(dir(dontneed)) == set()


def test_no_name_is_exported_twice() -> None:
    """`__all__` is a set in the form of a list."""
    assert len(dontneed.__all__) == len(set(dontneed.__all__))


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    """The lazy exports do not swallow a misspelling."""
    assert not hasattr(dontneed, "no_such_name")


def test_type_checkers_see_the_names_that_run_time_finds(sources: dict[Path, ast.Module]) -> None:
    """The lazy exports are written twice, for the interpreter and for type checkers, and agree on name and home."""
    imports = [node for node in ast.walk(sources[Path("__init__.py")]) if isinstance(node, ast.ImportFrom)]
    declared = {alias.asname: node.module for node in imports for alias in node.names if alias.asname}
    assert declared == {name: getattr(dontneed, name).__module__ for name in dontneed.__all__}


def test_the_version_is_that_of_the_installed_package() -> None:
    """It is written once, in `dontneed/__init__.py`, and the build reads it there."""
    assert dontneed.__version__ == version("dontneed")
