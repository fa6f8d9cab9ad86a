"""The checkout as the architecture tests read it: its files, and its Python sources parsed."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

NOT_OURS = {".git", ".venv", ".venvs", "__pycache__", "build", "dist"}
"""Directories that tools make; caches, which end in `_cache`, `.hypothesis` and binaries are theirs too."""


def _is_ours(directory: str) -> bool:
    return directory not in NOT_OURS and not directory.endswith("_cache") and directory != ".hypothesis"


def _files() -> list[Path]:
    """Every file of the checkout that is not made by a tool; without git, which a bare machine lacks."""
    files = []
    for directory, below, names in os.walk(ROOT):
        below[:] = [name for name in below if _is_ours(name)]
        files += [Path(directory, name) for name in names if not name.startswith(".coverage") and ".so" not in name]
    return sorted(files)


@pytest.fixture(scope="session")
def root() -> Path:
    """The directory of pyproject.toml."""
    return ROOT


@pytest.fixture(scope="session")
def checkout_files() -> list[Path]:
    """Every file that belongs to the project."""
    return _files()


@pytest.fixture(scope="session")
def sources(checkout_files: list[Path]) -> dict[Path, ast.Module]:
    """Every module of the package, parsed, by its path below src/dontneed."""
    package = ROOT / "src" / "dontneed"
    return {
        path.relative_to(package): ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
        for path in checkout_files
        if path.is_relative_to(package) and path.suffix == ".py"
    }


@pytest.fixture(scope="session")
def test_sources(checkout_files: list[Path]) -> dict[Path, ast.Module]:
    """Every test module, parsed, by its path in the checkout."""
    return {
        path.relative_to(ROOT): ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
        for path in checkout_files
        if path.is_relative_to(ROOT / "tests") and path.name.startswith("test_")
    }
