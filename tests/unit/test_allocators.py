"""Whose malloc a process uses: told by where calls of it lead, not by what lies about."""

from __future__ import annotations

import ctypes
import os

import pyarrow
import pytest

from dontneed.errors import Unreadable
from dontneed.kernel.procfs import ProcessDirectory
from dontneed.observe.malloc import allocators
from dontneed.observe.malloc.allocators import GLIBC, GPERFTOOLS, JEMALLOC, MIMALLOC, MUSL, TCMALLOC, find_allocators
from dontneed.observe.objects.symbols import MappedObject, find_object, find_objects, resolve
from dontneed.observe.subject import read_subject
from dontneed.spans import Spans

LIBC = "/usr/lib/x86_64-linux-gnu/libc.so.6"
LIBRARY = "/usr/lib/libthing.so"
PROGRAM = "/usr/bin/service"
GLIBC_HAS = ("malloc", "malloc_trim", "__libc_single_threaded")

LENGTH, UNSET, POINTER = 0x10000, 0x8000, 0x9000
"""Of each object; where, in each, a stub lies that has not been bound yet, and the pointer to malloc."""


@pytest.fixture
def found_in(monkeypatch):
    """What is found in a process, told as path -> (symbols that it defines, where its calls of malloc lead).

    They lead to the malloc of a path, to `UNSET`, or to None if it makes no such calls.
    """

    def find(objects):
        mapped = {
            path: MappedObject(path, bias, ((bias, bias + LENGTH, "r-xp"),), Spans(), (bias, bias + LENGTH, 0))
            for path, bias in zip(objects, range(LENGTH, 1 << 30, LENGTH), strict=False)
        }

        def symbols(_, within, names):
            defined = objects[within.path][0]
            return {name: within.bias + 16 * (1 + defined.index(name)) for name in names if name in defined}

        def pointer(_, address, length):
            within = next(each for each in mapped.values() if each.contains(address))
            leads = objects[within.path][1]
            if leads == "unmapped":
                msg = "unmapped"
                raise Unreadable(msg)
            target = within.bias + UNSET if leads == UNSET else symbols(None, mapped[leads], ["malloc"])["malloc"]
            return target.to_bytes(length, "little")

        def pointers(_, within, name):
            return [within.bias + POINTER] if objects[within.path][1] is not None and name == "malloc" else []

        monkeypatch.setattr(allocators, "find_objects", lambda *_: iter(mapped.values()))
        monkeypatch.setattr(allocators, "resolve", symbols)
        monkeypatch.setattr(allocators, "pointers_to", pointers)
        monkeypatch.setattr(allocators, "read_memory", pointer)
        return find_allocators(type("Subject", (), {"pid": 1}))

    return find


def test_malloc_is_glibcs_where_its_own_calls_lead_to_itself(found_in):
    """The usual case."""
    found = found_in({PROGRAM: ((), LIBC), LIBC: (GLIBC_HAS, LIBC)})
    assert found.owned_by_glibc
    assert found.libc is found.owner
    assert set(found.owner.functions) == {"malloc_trim", "__libc_single_threaded"}


@pytest.mark.parametrize(
    ("function", "name"),
    [
        ("mallctl", JEMALLOC),
        ("mi_collect", MIMALLOC),
        ("MallocExtension_ReleaseFreeMemory", GPERFTOOLS),
        ("_ZN8tcmalloc15MallocExtension22ReleaseMemoryToSystemEm", TCMALLOC),
    ],
)
@pytest.mark.parametrize("path", [LIBRARY, PROGRAM], ids=["preloaded", "in the program"])
def test_malloc_is_anothers_where_calls_of_libc_lead_there(found_in, function, name, path):
    """Preloaded, linked, or exported by the program: the loader has decided."""
    objects = {PROGRAM: ((), None), LIBRARY: ((), None), LIBC: (GLIBC_HAS, path)}
    objects[path] = (("malloc", function), None)
    found = found_in(objects)
    assert found.owner.name == name
    assert function in found.owner.functions
    assert not found.owned_by_glibc
    assert found.libc.name == GLIBC


def test_an_allocator_beside_glibcs_is_known_and_does_not_own_malloc(found_in):
    """As pyarrow's, which brings two; or a library that defines a malloc which nobody calls."""
    found = found_in(
        {
            LIBRARY: (("malloc", "je_arrow_mallctl", "mi_collect"), LIBC),
            LIBC: (GLIBC_HAS, LIBC),
        }
    )
    assert found.owned_by_glibc
    assert [allocator.name for allocator in found.known] == [JEMALLOC, MIMALLOC, GLIBC]
    assert [list(allocator.functions) for allocator in found.known[:2]] == [["je_arrow_mallctl"], ["mi_collect"]]


@pytest.mark.parametrize("unset", [UNSET, "unmapped"])
def test_a_libc_that_has_not_called_malloc_yet_is_asked_through_others(found_in, unset):
    """Older ones bind their own calls when they are first made."""
    found = found_in({PROGRAM: ((), LIBRARY), LIBRARY: (("malloc", "mallctl"), None), LIBC: (GLIBC_HAS, unset)})
    assert found.owner.name == JEMALLOC
    found = found_in({PROGRAM: ((), LIBC), LIBRARY: (("mallctl",), None), LIBC: (GLIBC_HAS, unset)})
    assert found.owned_by_glibc


def test_where_nobody_has_called_malloc_yet_a_definition_counts(found_in):
    """It will be called: libraries come before libc."""
    found = found_in({PROGRAM: ((), UNSET), LIBRARY: (("malloc", "mallctl"), None), LIBC: (GLIBC_HAS, UNSET)})
    assert found.owner.name == JEMALLOC
    found = found_in({PROGRAM: ((), UNSET), LIBC: (GLIBC_HAS, UNSET)})
    assert found.owned_by_glibc


def test_an_owner_that_is_not_known_is_told_by_its_path(found_in):
    """Its name must not be taken for that of one that is."""
    path = "/usr/lib/musl"
    found = found_in({path: (("malloc",), None), LIBC: (GLIBC_HAS, path)})
    assert found.owner.name == path
    assert not found.owner.functions


@pytest.mark.parametrize("path", ["/lib/ld-musl-x86_64.so.1", "/usr/lib/x86_64-linux-musl/libc.so"])
def test_musl_is_known_by_its_name(found_in, path):
    """It is libc and loader in one, and goes by either name."""
    found = found_in({PROGRAM: ((), path), path: (("malloc",), None)})
    assert found.owner.name == MUSL
    assert found.libc is None


def test_a_program_with_glibc_inside_owns_malloc_itself(found_in):
    """Linked statically, with symbols; and without, it is only the program."""
    found = found_in({PROGRAM: (GLIBC_HAS, None)})
    assert found.owned_by_glibc
    assert found.libc.mapped.path == PROGRAM
    found = found_in({PROGRAM: ((), None)})
    assert found.owner is None
    assert found.libc is None
    assert found.program.path == PROGRAM


def test_our_own_functions_are_where_we_call_them():
    """Symbols of a real process, held against what the loader says."""
    with ProcessDirectory(os.getpid()) as process:
        subject = read_subject(process)
        found = find_allocators(subject)
        libc = find_object(subject, lambda path: path.endswith("libc.so.6"))
        symbols = resolve(subject, libc, ["malloc", "free", "no_such_function"])
    library = ctypes.CDLL(None)
    expected = {name: ctypes.cast(getattr(library, name), ctypes.c_void_p).value for name in ("malloc", "free")}
    assert symbols == expected
    trim = ctypes.cast(library.malloc_trim, ctypes.c_void_p).value
    assert found.owned_by_glibc
    assert found.owner.functions["malloc_trim"] == trim
    assert libc.contains(trim)
    assert all(perms.startswith("rw") for start, _, perms in libc.segments if start in libc.data)


def test_a_real_pyarrow_brings_two_allocators():
    """Their functions are local symbols, which its wheel does not strip."""
    assert pyarrow.total_allocated_bytes() >= 0
    with ProcessDirectory(os.getpid()) as process:
        subject = read_subject(process)
        arrow = next(find_objects(subject, lambda path: "/libarrow.so" in path))
        beside = {each.name for each in find_allocators(subject).known if each.mapped.path == arrow.path}
    assert beside == {JEMALLOC, MIMALLOC}


def test_a_process_of_nobodys_is_read_through_its_root(as_nobody):
    """Without CAP_SYS_ADMIN there is no map_files; the file is then held against what is in memory."""
    done = as_nobody(
        "import ctypes, os\n"
        "from dontneed.kernel.procfs import ProcessDirectory\n"
        "from dontneed.observe.subject import read_subject\n"
        "from dontneed.observe.objects.symbols import find_object, resolve\n"
        "with ProcessDirectory(os.getpid()) as process:\n"
        "    subject = read_subject(process)\n"
        "    libc = find_object(subject, lambda path: path.endswith('libc.so.6'))\n"
        "    found = resolve(subject, libc, ['malloc_trim'])\n"
        "print(found == {'malloc_trim': ctypes.cast(ctypes.CDLL(None).malloc_trim, ctypes.c_void_p).value})\n"
    )
    assert (done.stdout, done.stderr) == ("True\n", "")
