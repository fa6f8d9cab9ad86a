"""What is built from the checkout installs and runs where nothing else is; with its native part, or without."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

BINARY = "dontneed/kernel/_native.abi3.so"
HAS_HEADERS = Path(sysconfig.get_path("include"), "Python.h").exists()
needs_headers = pytest.mark.skipif(not HAS_HEADERS, reason="needs the headers of this Python")


def _run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """The output of a command that succeeds."""
    kept = {name: value for name, value in os.environ.items() if name not in {"CC", "DONTNEED_PURE"}}
    run = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, env={**kept, **environment})
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.fixture(scope="module")
def checkout(checkout_files: list[Path], root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout: nothing that lies about beside it can get in."""
    copy = tmp_path_factory.mktemp("checkout")
    for path in checkout_files:
        target = copy / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return copy


@pytest.fixture(scope="module")
def build(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Build a wheel: `build()`, `build(DONTNEED_PURE="1")`; each kind once."""
    built: dict[str, Path] = {}

    def wheel(**environment: str) -> Path:
        kind = repr(environment)
        if kind not in built:
            directory = tmp_path_factory.mktemp("built")
            pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--wheel-dir", directory]
            _run(*pip, "--no-deps", "--no-build-isolation", "--no-index", ".", cwd=checkout, **environment)
            (built[kind],) = directory.iterdir()
        return built[kind]

    return wheel


@pytest.fixture(params=["native", "pure"])
def wheel(request: pytest.FixtureRequest, build: Callable[..., Path]) -> Path:
    """The wheel of a machine with a compiler, and of one without, as far as they can be had here."""
    return build(**({} if request.param == "native" else {"DONTNEED_PURE": "1"}))


@pytest.fixture
def native_wheel(build: Callable[..., Path]) -> Path:
    """The wheel of a machine with a compiler."""
    return build()


def _names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def _why_not_native(python: str, installed: Path) -> str:
    """What the package in this directory says of its native part."""
    ask = "import sys; sys.path.insert(0, '.'); from dontneed.kernel.native import why_not; print(why_not())"
    return _run(python, "-I", "-c", ask, cwd=installed).strip()


@pytest.mark.needs_command("cc")
@needs_headers
def test_with_a_compiler_the_wheel_has_one_binary_for_every_python(native_wheel: Path) -> None:
    """Built for the limited API of 3.10, it serves all that come after."""
    assert "-cp310-abi3-linux_" in native_wheel.name
    assert [name for name in _names(native_wheel) if name.endswith((".so", ".c", ".h"))] == [BINARY]


@pytest.mark.needs_command("cc")
@needs_headers
def test_the_binary_is_imported_by_every_supported_python(native_wheel: Path, root: Path, tmp_path: Path) -> None:
    """Whichever of them it was built by; and it is the one that the package wants."""
    with zipfile.ZipFile(native_wheel) as archive:
        archive.extractall(tmp_path)
    pythons = _run(root / "tools" / "interpreters.sh", cwd=root).split()
    assert {python: _why_not_native(python, tmp_path) for python in pythons} == dict.fromkeys(pythons, "")


@pytest.mark.parametrize("without", ["a compiler", "a wish for one"])
def test_without_a_compiler_the_wheel_is_pure_python(
    build: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory, without: str
) -> None:
    """One wheel serves every supported interpreter and architecture; nobody needs a compiler to install it."""
    nothing = tmp_path_factory.getbasetemp()
    wheel = build(PATH=str(nothing)) if without == "a compiler" else build(DONTNEED_PURE="1")
    assert wheel.name.endswith("-py3-none-any.whl")
    assert BINARY not in _names(wheel)


def test_a_compiler_that_fails_makes_a_pure_wheel(build: Callable[..., Path]) -> None:
    """As without headers, or on another machine: what is optional stops nobody."""
    assert build(CC="false").name.endswith("-py3-none-any.whl")


def test_without_the_binary_the_package_says_so(build: Callable[..., Path], tmp_path: Path) -> None:
    """And does everything else."""
    with zipfile.ZipFile(build(DONTNEED_PURE="1")) as archive:
        archive.extractall(tmp_path)
    assert "it was not built" in _why_not_native(sys.executable, tmp_path)


@pytest.mark.needs_command("cc")
@needs_headers
def test_an_editable_installation_has_its_binary_where_git_ignores_it(checkout: Path, tmp_path: Path) -> None:
    """Beside the modules, since they are used where they are; built without, it goes again."""

    def files() -> set[str]:
        return {str(path.relative_to(checkout)) for path in checkout.rglob("*") if path.is_file()}

    before = files()
    backend = f"import hatchling.build; hatchling.build.build_editable({str(tmp_path)!r})"
    _run(sys.executable, "-c", backend, cwd=checkout)
    assert files() - before == {f"src/{BINARY}"}
    assert f"/src/{BINARY}*" in (checkout / ".gitignore").read_text(encoding="utf-8").splitlines()
    _run(sys.executable, "-c", backend, cwd=checkout, DONTNEED_PURE="1")
    assert files() == before


def test_the_wheel_holds_every_module_and_the_typing_marker(wheel: Path, root: Path) -> None:
    """Nothing of the package is left behind, and nothing else goes along."""
    packed = {name for name in _names(wheel) if name.startswith("dontneed/")} - {BINARY}
    others = {name.partition("/")[0] for name in _names(wheel)} - {"dontneed"}
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
