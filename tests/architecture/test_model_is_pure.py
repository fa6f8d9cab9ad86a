"""The model is arithmetic: it runs where nothing of Linux is."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

from dontneed.abi import errnos

MODEL = Path(__file__).parents[2] / "src" / "dontneed" / "model"

ELSEWHERE = """
import os, sys
for absent in ("ctypes", "fcntl", "mmap", "resource", "pwd", "grp", "termios", "numpy"):
    sys.modules[absent] = None
del os.sysconf
for name in sys.argv[1:]:
    __import__(f"dontneed.model.{name}")
from dontneed.model.space import vma
from dontneed.model.process import Process
from dontneed.model.system import System
process = Process(System("2.6.32"))
address = process.mmap(1 << 22, vma.READ | vma.WRITE)
assert process.write(address, 1 << 22, 90) == 0
assert process.mm.rss_pages == 1024
assert process.madvise(address, 1 << 22, 4) == 0
assert process.mm.rss_pages == 0
assert process.read(address, 1 << 22) == {0}
"""


def test_the_model_runs_on_a_system_that_is_no_linux() -> None:
    """No module of it needs what only Linux or Unix has, and a discard works."""
    paths = [path.relative_to(MODEL).with_suffix("") for path in MODEL.rglob("*.py") if path.stem != "__init__"]
    names = [".".join(path.parts) for path in paths]
    assert names
    subprocess.run([sys.executable, "-c", ELSEWHERE, *names], check=True)


def test_the_errors_have_the_numbers_of_linux() -> None:
    """The table is this system's, which is Linux."""
    table = {name: number for name, number in vars(errnos).items() if name.startswith("E")}
    assert table
    assert {name: getattr(errno, name) for name in table} == table
