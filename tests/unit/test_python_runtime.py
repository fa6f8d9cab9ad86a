"""Which CPython a process runs, told from symbols, from one word of its memory, and from its environment."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace

import pytest

from dontneed.errors import NotPermitted, TargetRefused
from dontneed.kernel.procfs import ProcessDirectory
from dontneed.observe.python import runtime as python_runtime
from dontneed.observe.python.runtime import CALLED, FINALIZING, find_runtime
from dontneed.observe.subject import read_subject

WHOLE = dict.fromkeys((*CALLED, FINALIZING[0], "PyIter_Send"), 4096)


@pytest.fixture
def process(monkeypatch):
    """A process with one object, whose symbols and whose Py_Version the test chooses: `process(symbols, version)`."""

    def made(symbols, version=0x030C01F0, path="/usr/lib/libpython3.12.so.1.0", environ=b"HOME=/\0"):
        def read(name):
            if isinstance(environ, Exception):
                raise environ
            assert name == "environ"
            return environ

        mapped = SimpleNamespace(path=path)
        monkeypatch.setattr(
            python_runtime, "find_objects", lambda _, pleases: iter([mapped] if pleases(mapped.path) else [])
        )
        monkeypatch.setattr(python_runtime, "resolve", lambda *_: symbols)
        monkeypatch.setattr(python_runtime, "read_memory", lambda *_: version.to_bytes(8, "little"))
        return SimpleNamespace(pid=1, process=SimpleNamespace(read=read))

    return made


def test_our_own_is_recognised():
    """By the same symbols as anyone's."""
    with ProcessDirectory() as ourselves:
        found = find_runtime(read_subject(ourselves))
    assert found.version == sys.version_info[:2]
    assert found.name == "CPython {}.{}".format(*sys.version_info)
    assert found.finalizing in found.symbols.values()
    assert found.mapped.contains(found.symbols["PyGILState_Ensure"])
    assert found.mapped.data.size_bytes > 0
    assert os.path.isabs(found.mapped.path)


@pytest.mark.parametrize(("number", "version"), [(0x030B07F0, (3, 11)), (0x030C01F0, (3, 12)), (0x030E00F0, (3, 14))])
def test_the_version_is_that_of_py_version(process, number, version):
    """PY_VERSION_HEX: major, minor, micro, level, serial."""
    assert find_runtime(process(WHOLE | {"Py_Version": 8}, number)).version == version


def test_without_py_version_it_is_the_one_that_has_pyiter_send(process):
    """Both are of one release only: 3.10 has the one and lacks the other."""
    assert find_runtime(process(WHOLE)).version == (3, 10)


@pytest.mark.parametrize(
    ("changes", "number", "why"),
    [
        ({"PyIter_Send": None}, 0, "3.9 and older"),
        ({"Py_Version": 8}, 0x030F00A1, "3.15 lays out"),
        ({"Py_Version": 8, "_Py_MergeZeroLocalRefcount": 8}, 0x030D00F0, "without a GIL"),
        ({"PyGILState_Check": None}, 0, "without PyGILState_Check"),
        ({"Py_IsFinalizing": None}, 0, "without Py_IsFinalizing"),
        ({"PyGILState_Ensure": None}, 0, "no CPython"),
    ],
)
def test_other_builds_are_refused(process, changes, number, why):
    """With a sentence that says which."""
    symbols = {name: value for name, value in (WHOLE | changes).items() if value is not None}
    with pytest.raises(TargetRefused, match=why):
        find_runtime(process(symbols, number))


@pytest.mark.parametrize("path", ["/usr/bin/python3.12", "/opt/app/server", "/usr/lib/libpython3.12.so.1.0"])
def test_a_program_may_have_it_inside(process, path):
    """Debian's python3 has, and so do programs that embed it."""
    assert find_runtime(process(WHOLE, path=path)).mapped.path == path


@pytest.mark.parametrize("path", ["/usr/lib/libpython3.so", "/usr/lib/libc.so.6", "/usr/lib/libpython2.7.so.1.0"])
def test_other_libraries_are_not_looked_into(process, path):
    """The stub of the stable ABI has none of it, and a large library takes long to search."""
    with pytest.raises(TargetRefused, match="no CPython"):
        find_runtime(process(WHOLE, path=path))


@pytest.mark.parametrize(
    "setting", [b"PYTHONMALLOC=malloc", b"PYTHONMALLOC=pymalloc_debug", b"PYTHONMALLOC=mimalloc", b"PYTHONDEVMODE=1"]
)
def test_settings_are_refused_by_the_environment(process, setting):
    """Of the start; a program may have chosen otherwise later, and the pools tell that."""
    with pytest.raises(TargetRefused, match=setting.partition(b"=")[0].decode()):
        find_runtime(process(WHOLE, environ=b"HOME=/\0" + setting + b"\0"))


@pytest.mark.parametrize("environ", [b"", b"PYTHONMALLOC=pymalloc\0PYTHONDEVMODE=\0", b"PYTHONMALLOC=default\0A"])
def test_plain_settings_are_fine(process, environ):
    """Said or not."""
    assert find_runtime(process(WHOLE, environ=environ)).version == (3, 10)


def test_an_environment_that_is_hidden_says_nothing(process):
    """Then it is up to the pools."""
    assert find_runtime(process(WHOLE, environ=NotPermitted("hidden"))).version == (3, 10)
