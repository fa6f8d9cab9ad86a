"""Whose malloc a process uses, and which other allocators live beside it.

Who owns malloc is read where it counts: from the pointer by which libc itself calls malloc, which the loader has set
to that of the program, of a preloaded library, or of libc. Older libcs set theirs at the first call; then that of any
other library is asked, and last, who defines a malloc at all.

Other allocators are known by a function that only they have, under the names that their distributors gave it. They are
looked for in every program and library of the process: pyarrow brings two of its own, Rust programs often jemalloc.
"""

from __future__ import annotations

import os

from dontneed.errors import Unreadable
from dontneed.kernel.process_memory import read_memory
from dontneed.observe.objects.symbols import find_objects, pointers_to, resolve
from dontneed.records import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dontneed.observe.objects.symbols import MappedObject
    from dontneed.observe.subject import Subject

GLIBC, MUSL, JEMALLOC, MIMALLOC, GPERFTOOLS, TCMALLOC = (
    "glibc",
    "musl",
    "jemalloc",
    "mimalloc",
    "gperftools' tcmalloc",
    "Google's tcmalloc",
)

PURGES = {
    "mallctl": JEMALLOC,
    "je_mallctl": JEMALLOC,
    "je_arrow_mallctl": JEMALLOC,
    "_rjem_mallctl": JEMALLOC,
    "jemk_mallctl": JEMALLOC,
    "mi_collect": MIMALLOC,
    "arrow_mi_collect": MIMALLOC,
    "MallocExtension_ReleaseFreeMemory": GPERFTOOLS,
    "MallocExtension_Internal_ReleaseMemoryToSystem": TCMALLOC,
    "_ZN8tcmalloc15MallocExtension22ReleaseMemoryToSystemEm": TCMALLOC,
}
"""The functions by which allocators give back what they can, and whose they are."""

TRIM = "malloc_trim"
SINGLE_THREADED = "__libc_single_threaded"
"""Since 2.32: malloc takes no lock while this byte of libc is not 0, from 2.36 on."""
SINCE_2_36 = "process_madvise"
"""A function that libc has from that version on; distributions add none to older ones."""
_OF_GLIBC = (TRIM, SINGLE_THREADED, SINCE_2_36)
_LIBC = ("libc.so.6", "libc-2.")
_MUSL = ("ld-musl-", "libc.musl-", "libc.so")


class Allocator(Record):
    """An allocator in a process.

    Attributes:
        name: one of the names above, or the path of one that is not known.
        mapped: the program or library that it is in.
        functions: the addresses of those functions of it that are known here, by name.
    """

    name: str
    mapped: MappedObject
    functions: dict[str, int]


class Allocators(Record):
    """The allocators of a process.

    Attributes:
        owner: the one behind `malloc`; None if nobody can tell.
        known: all that are known, the owner among them if it is; in address order.
        libc: glibc, whoever owns malloc; None in a process without it.
        program: the program, if there is no libc: it may have one inside.
    """

    owner: Allocator | None
    known: tuple[Allocator, ...]
    libc: Allocator | None
    program: MappedObject | None

    @property
    def owned_by_glibc(self) -> bool:
        """Whether malloc is glibc's."""
        return self.owner is not None and self.owner.name == GLIBC


def find_allocators(subject: Subject) -> Allocators:
    """Find out whose malloc a process uses. Stops nothing and writes nothing.

    Raises:
        ProcessGone, NotPermitted: as `ProcessDirectory.read`.
    """
    objects = list(find_objects(subject, bool))
    known = [allocator for mapped in objects for allocator in _in(subject, mapped)]
    libc = next((allocator for allocator in known if allocator.name == GLIBC), None)
    owning = _owning_object(subject, objects, libc)
    owner = next((allocator for allocator in known if allocator.mapped is owning), None)
    if owner is None and owning is not None:
        owner = Allocator(owning.path, owning, {})
    return Allocators(owner, tuple(known), libc, objects[0] if objects and libc is None else None)


def _in(subject: Subject, mapped: MappedObject) -> Iterator[Allocator]:
    """The allocators inside one program or library."""
    name = os.path.basename(mapped.path)
    if name.startswith(_LIBC):
        yield Allocator(GLIBC, mapped, resolve(subject, mapped, _OF_GLIBC))
        return
    if name.startswith(_MUSL):
        yield Allocator(MUSL, mapped, {})
        return
    functions = resolve(subject, mapped, (*PURGES, *_OF_GLIBC))
    if TRIM in functions:  # linked statically
        yield Allocator(GLIBC, mapped, {name: functions[name] for name in _OF_GLIBC if name in functions})
    for allocator in dict.fromkeys(PURGES[function] for function in functions if function in PURGES):
        own = {function: address for function, address in functions.items() if PURGES.get(function) == allocator}
        yield Allocator(allocator, mapped, own)


def _owning_object(subject: Subject, objects: list[MappedObject], libc: Allocator | None) -> MappedObject | None:
    """The program or library whose malloc is called."""
    if libc is None:
        return _definer(subject, objects)
    own = resolve(subject, libc.mapped, ("malloc",)).get("malloc", 0)
    for mapped in (libc.mapped, *objects):
        for target in _targets(subject, mapped):
            if target == own:
                return libc.mapped
            found = next((other for other in objects if other.contains(target)), None)
            # A program at a fixed address stands in for functions whose address it takes: a stub there is no malloc.
            if found not in (None, mapped, libc.mapped) and resolve(subject, found, ("malloc",)):
                return found
    return _definer(subject, [mapped for mapped in objects if mapped is not libc.mapped]) or libc.mapped


def _targets(subject: Subject, mapped: MappedObject) -> Iterable[int]:
    """Where calls of malloc in the code of `mapped` lead, as far as the loader has set that."""
    return (_pointer_at(subject, pointer) for pointer in pointers_to(subject, mapped, "malloc"))


def _pointer_at(subject: Subject, address: int) -> int:
    """The pointer that is there; 0, which leads nowhere, if it was unloaded meanwhile."""
    try:
        return int.from_bytes(read_memory(subject.pid, address, 8), "little")
    except Unreadable:
        return 0


def _definer(subject: Subject, objects: Iterable[MappedObject]) -> MappedObject | None:
    return next((mapped for mapped in objects if resolve(subject, mapped, ("malloc",))), None)
