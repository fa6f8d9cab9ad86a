"""What is built from the checkout installs and runs where nothing else is."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


def _run(*command: str | Path, cwd: Path) -> str:
    """The output of a command that succeeds."""
    run = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.fixture(scope="module")
def wheel(checkout_files: list[Path], root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the checkout: nothing that lies about beside it can get in."""
    copy = tmp_path_factory.mktemp("checkout")
    for path in checkout_files:
        target = copy / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    built = tmp_path_factory.mktemp("built")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    _run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", built, ".", cwd=copy)
    (path,) = built.iterdir()
    return path


def test_the_wheel_is_pure_python(wheel: Path) -> None:
    """One wheel serves every supported interpreter and architecture."""
    assert wheel.name.endswith("-py3-none-any.whl")


def test_the_wheel_holds_every_module_and_the_typing_marker(wheel: Path, root: Path) -> None:
    """Nothing of the package is left behind, and nothing else goes along."""
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("dontneed/")}
        others = {name.partition("/")[0] for name in archive.namelist()} - {"dontneed"}
    package = root / "src"
    present = {str(path.relative_to(package)) for path in package.rglob("*") if path.suffix in {".py", ".typed"}}
    assert packed == present
    assert all(name.endswith((".dist-info", ".data")) for name in others)


def test_the_installed_command_runs_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    """`pip install` brings the command, and its help needs not even numpy."""
    environment = tmp_path / "environment"
    _run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=tmp_path)
    python = environment / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    _run(*pip, "install", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    assert "look" in _run(environment / "bin" / "dontneed", "--help", cwd=tmp_path)
