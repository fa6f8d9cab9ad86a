"""The floors of ARCHITECTURE.md hold."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

LONGEST_MODULE_LINES = 500

EXITS = {"exit", "quit", "sys.exit", "SystemExit"}


def _names_used(tree: ast.Module) -> set[str]:
    """The names and dotted names that a module mentions."""
    return {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, (ast.Name, ast.Attribute))}


def _above_the_cli(sources: dict[Path, ast.Module]) -> dict[Path, ast.Module]:
    return {path: tree for path, tree in sources.items() if path.parts[0] not in {"cli", "__main__.py"}}


def test_every_import_points_down(root: Path) -> None:
    """The contracts of import-linter in pyproject.toml are kept."""
    lint_imports = Path(sys.executable).with_name("lint-imports")
    run = subprocess.run(
        [lint_imports, "--no-logo", "--no-cache"], cwd=root, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_only_the_cli_prints(sources: dict[Path, ast.Module]) -> None:
    """A library that prints cannot be used by a program that has something else to say."""
    assert [path for path, tree in _above_the_cli(sources).items() if "print" in _names_used(tree)] == []


def test_only_the_cli_exits(sources: dict[Path, ast.Module]) -> None:
    """A library raises, and leaves it to its caller whether that is the end."""
    assert [path for path, tree in _above_the_cli(sources).items() if EXITS & _names_used(tree)] == []


def test_every_module_can_be_read_in_one_sitting(sources: dict[Path, ast.Module], root: Path) -> None:
    """A module longer than this is two modules."""
    lengths = {
        path: len((root / "src" / "dontneed" / path).read_text(encoding="utf-8").splitlines()) for path in sources
    }
    assert {path: lines for path, lines in lengths.items() if lines > LONGEST_MODULE_LINES} == {}


def test_every_module_says_what_it_is_for(sources: dict[Path, ast.Module]) -> None:
    """Each module and package opens with a docstring."""
    assert [path for path, tree in sources.items() if not ast.get_docstring(tree)] == []


@pytest.mark.parametrize("vague", ["utils", "util", "helpers", "common", "misc"])
def test_no_module_has_a_name_that_says_nothing(sources: dict[Path, ast.Module], vague: str) -> None:
    """A module that is named for nothing collects everything; a helper, though, is a process here."""
    assert [path for path in sources if vague in {path.stem, *path.parts}] == []


def test_every_test_says_what_it_holds(test_sources: dict[Path, ast.Module]) -> None:
    """A test without a docstring fails without a reason."""
    tests = [
        (path, node)
        for path, tree in test_sources.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    assert len(tests) > 0
    assert [f"{path}:{node.lineno} {node.name}" for path, node in tests if not ast.get_docstring(node)] == []
