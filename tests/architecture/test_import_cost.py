"""What is not needed is not imported.

No test can hold a time to a bound on every machine, but it can hold the cause: the modules that cost it.
The benchmark of the command's start measures what they cost.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import dontneed

if TYPE_CHECKING:
    from collections.abc import Callable

SLOW = {"argparse", "ctypes", "dataclasses", "enum", "inspect", "numpy", "pathlib", "re", "subprocess", "typing"}
"""Each takes from one to a hundred milliseconds."""

PARSER = {"argparse", "enum", "re"}
"""argparse stands on re, and re on enum."""


def _modules_loaded_by(code: str) -> set[str]:
    """The modules that `code` adds to a bare interpreter.

    `-I -S` keeps out what else is installed, for a `.pth` file there may import as it likes. numpy is out of reach
    too: a path that would need it fails.
    """
    package_parent = str(Path(dontneed.__file__).parents[1])
    program = f"""if True:
        import sys
        sys.path.insert(0, {package_parent!r})
        before = set(sys.modules)
        try:
            exec({code!r})
        except SystemExit as end:
            assert not end.code, end.code
        sys.stderr.write("\\n".join(set(sys.modules) - before))
    """
    run = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return set(run.stderr.split())


def _command(*arguments: str) -> str:
    """Code that runs `dontneed` with `arguments` as bin/dontneed does."""
    return f"sys.argv = {['dontneed', *arguments]!r}; from dontneed.cli.main import main; sys.exit(main())"


def test_importing_dontneed_loads_nothing_slow() -> None:
    """`import dontneed` costs a program that never calls it next to nothing."""
    loaded = _modules_loaded_by("import dontneed")
    assert "dontneed" in loaded
    assert loaded & SLOW == set()


def test_help_loads_the_parser_and_nothing_else_that_is_slow() -> None:
    """`dontneed --help` starts like a bare interpreter that parses arguments."""
    loaded = _modules_loaded_by(_command("--help"))
    assert "dontneed.cli.main" in loaded
    assert loaded & (SLOW - PARSER) == set()


def test_a_cold_look_loads_nothing_slow(child: Callable[..., object]) -> None:
    """`dontneed look PID` has less time than `pmap -x` takes, and parses its arguments by itself.

    Page tables are read through bpf(2), for which there is no way but ctypes; nobody but root takes it.
    """
    loaded = _modules_loaded_by(_command("look", str(child().pid)))
    assert "dontneed.observe.address_space" in loaded
    assert loaded & SLOW <= ({"ctypes"} if "dontneed.kernel.kernel_memory" in loaded else set())


def test_a_cold_look_at_all_loads_nothing_slow() -> None:
    """`dontneed look --all` is held against smem; only where there is a large process it takes numpy."""
    everyone_is_small = "from dontneed.observe.holders import look_all as way; way._SMALL_BYTES = 1 << 60; "
    loaded = _modules_loaded_by(everyone_is_small + _command("look", "--all"))
    assert "dontneed.observe.holders.roll" in loaded
    assert loaded & SLOW == set()


def test_the_installed_command_loads_nothing_slow(root: Path) -> None:
    """bin/dontneed imports what it names and no more: this is why it is no entry point."""
    script = (root / "bin" / "dontneed").read_text(encoding="utf-8")
    imports = [line for line in script.splitlines() if line.startswith(("import ", "from "))]
    assert imports == ["import sys", "from dontneed.cli.main import main"]
