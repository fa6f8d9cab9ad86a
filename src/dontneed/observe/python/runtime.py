"""The CPython in a process: which version, where its code and data lie, and whether its memory is pymalloc's.

It is found by what it defines, in a shared `libpython3.*` or in the program itself, never by a command line: only
CPython defines `PyGILState_Ensure` (PyPy calls it otherwise). The version is the value of `Py_Version`, since 3.11;
3.10 has no such symbol, and is the first with `PyIter_Send`.
"""

from __future__ import annotations

import os

from dontneed.abi.pymalloc import NEWEST, OLDEST
from dontneed.errors import NotPermitted, TargetRefused
from dontneed.kernel.process_memory import read_memory
from dontneed.observe.objects.symbols import find_objects, resolve
from dontneed.records import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from dontneed.kernel.procfs import ProcessDirectory
    from dontneed.observe.objects.symbols import MappedObject
    from dontneed.observe.subject import Subject

CALLED = (
    "PyGILState_Ensure",
    "PyGILState_Release",
    "PyGILState_Check",
    "PyGILState_GetThisThreadState",
    "PyInterpreterState_Head",
    "PyInterpreterState_Main",
    "PyThreadState_GetInterpreter",
)
"""What is called to take the GIL safely; all of it is exported by every supported version."""
FINALIZING = ("Py_IsFinalizing", "_Py_IsFinalizing")
"""Either; public since 3.13."""
_TELLING = ("Py_Version", "PyIter_Send", "_Py_MergeZeroLocalRefcount", "PyRun_SimpleString")
_FREE_THREADED = "_Py_MergeZeroLocalRefcount"
"""Defined by builds without a GIL only."""

_PLAIN_ALLOCATORS = (b"", b"default", b"pymalloc")
_NEWER = "a newer dontneed may know it"


class PythonRuntime(Record):
    """The CPython of a process.

    Attributes:
        version: major and minor.
        mapped: the library or program that it is.
        symbols: absolute addresses of the functions that dontneed may call.
    """

    version: tuple[int, int]
    mapped: MappedObject
    symbols: Mapping[str, int]

    @property
    def name(self) -> str:
        """As a person calls it: CPython 3.12."""
        return "CPython {}.{}".format(*self.version)

    @property
    def finalizing(self) -> int:
        """The address of the function that says whether the interpreter is shutting down."""
        return next(self.symbols[name] for name in FINALIZING if name in self.symbols)


def find_runtime(subject: Subject) -> PythonRuntime:
    """The CPython of the process, if its small objects may lie in pymalloc's pools.

    Raises:
        TargetRefused: there is none; or it is of a version or a build, or runs with settings, that dontneed leaves
            alone; says which.
        ProcessGone, NotPermitted: as `Subject`'s reads.
    """
    for mapped in _candidates(subject):
        symbols = resolve(subject, mapped, (*CALLED, *FINALIZING, *_TELLING))
        if "PyGILState_Ensure" in symbols:
            break
    else:
        msg = "it runs no CPython that can be recognised"
        raise TargetRefused(msg, hint="CPython is known by its symbols: a program that hides or strips them hides it")
    version = _version(subject, symbols)
    _refuse_build(mapped, symbols, version)
    _refuse_settings(subject.process)
    return PythonRuntime(version, mapped, symbols)


def _candidates(subject: Subject) -> Iterator[MappedObject]:
    """Where a CPython may be: the libraries of that name, then the programs."""
    yield from find_objects(subject, _is_python_library)
    yield from find_objects(subject, lambda path: ".so" not in os.path.basename(path))


def _is_python_library(path: str) -> bool:
    name = os.path.basename(path)
    return name.startswith("libpython3.") and name[len("libpython3.")].isdigit() and ".so" in name


def _version(subject: Subject, symbols: Mapping[str, int]) -> tuple[int, int]:
    if "Py_Version" in symbols:
        number = int.from_bytes(read_memory(subject.pid, symbols["Py_Version"], 8), "little")
        return number >> 24, number >> 16 & 0xFF
    return (3, 10) if "PyIter_Send" in symbols else (3, 9)


def _refuse_build(mapped: MappedObject, symbols: Mapping[str, int], version: tuple[int, int]) -> None:
    name = "CPython {}.{}".format(*version)
    if version < OLDEST:
        msg = "CPython 3.9 and older have pools of one page: there is nothing inside them to give back"
        raise TargetRefused(msg)
    if version > NEWEST:
        msg = f"how {name} lays out its memory is not known"
        raise TargetRefused(msg, hint=_NEWER)
    if _FREE_THREADED in symbols:
        msg = f"{name} without a GIL has no pools: its objects are mimalloc's"
        raise TargetRefused(msg)
    missing = [each for each in CALLED if each not in symbols]
    if missing or not any(each in symbols for each in FINALIZING):
        msg = f"{mapped.path} is a CPython without {missing[0] if missing else FINALIZING[0]}: it cannot be held"
        raise TargetRefused(msg)


def _refuse_settings(process: ProcessDirectory) -> None:
    """Refuse by the environment that the process was started with; pools that are not there are seen later as well."""
    try:
        environment = process.read("environ").split(b"\0")
    except NotPermitted:
        return  # then the pools alone tell
    for name, _, value in (entry.partition(b"=") for entry in environment):
        if name == b"PYTHONMALLOC" and value not in _PLAIN_ALLOCATORS:
            msg = f"PYTHONMALLOC={value.decode(errors='replace')}: its objects are not in plain pools"
            raise TargetRefused(msg)
        if name == b"PYTHONDEVMODE" and value:
            msg = "PYTHONDEVMODE: its objects are behind debug hooks"
            raise TargetRefused(msg)
