"""Functions by which allocators give back what they can, called inside the process by a thread that is quiet.

Only that thread is stopped. All others run on, so that whatever lock of the allocator one of them holds is given back;
and the quiet one holds none, because of where it waits (see remote/quiet.py).

| allocator | function | what stays |
|---|---|---|
| glibc | malloc_trim(0) | the tops of thread arenas, thread caches |
| jemalloc | mallctl("arena.4096.purge") | what threads keep in their caches; 4096 means all arenas, since jemalloc 5 |
| mimalloc | mi_collect(true), by each quiet thread | the heaps of threads that are not quiet |
| gperftools | MallocExtension_ReleaseFreeMemory() | thread caches |
| Google's tcmalloc | MallocExtension::ReleaseMemoryToSystem(most) | thread and processor caches |
"""

from __future__ import annotations

import time

from dontneed.abi.syscalls import X86_64 as NR
from dontneed.errors import ProcessGone, TargetRefused
from dontneed.kernel.maps import read_maps
from dontneed.kernel.process_memory import write_memory
from dontneed.observe.malloc.allocators import GPERFTOOLS, JEMALLOC, MIMALLOC, TCMALLOC, TRIM
from dontneed.records import Record
from dontneed.units import PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.kernel.procfs import ProcessDirectory
    from dontneed.observe.malloc.allocators import Allocator
    from dontneed.remote.stop import Stop

_ALL_OF_IT = (1 << 63) - 1
_PURGE = b"arena.4096.purge\0"
"""MALLCTL_ARENAS_ALL, jemalloc.h."""
_BY_NAME = {JEMALLOC: (0, 0, 0, 0), MIMALLOC: (1,), GPERFTOOLS: (), TCMALLOC: (_ALL_OF_IT,)}
"""The arguments; those of mallctl behind its first, which is text."""
_KEEPS = {
    JEMALLOC: "what its threads keep in their caches stays",
    MIMALLOC: "every thread has to do that for itself, so that what busy threads hold stays",
    GPERFTOOLS: "what its threads keep in their caches stays",
    TCMALLOC: "what threads and processors keep in their caches stays",
}
_OWN_THREADS = (b"jemalloc_bg_thd",)
"""Threads of allocators themselves are never borrowed for a call of theirs."""
_WAITS_SECONDS = (0.0, 0.002, 0.008, 0.032, 0.128)
"""Before each attempt: a thread that was stopped just now is not seen to wait before it has run again."""

_PROT_READ, _PROT_WRITE = 1, 2
_MAP_PRIVATE, _MAP_ANONYMOUS = 2, 0x20


class Called(Record):
    """What came of a call.

    Attributes:
        result: what the function returned, as a C int.
        pause_seconds: for which the thread that ran it was held.
        thread: which one that was; 0 for the calling one.
    """

    result: int
    pause_seconds: float
    thread: int = 0


def trim(process: ProcessDirectory, libc: Allocator) -> Called:
    """Have glibc consolidate its free chunks and give back what it does by itself.

    Raises:
        TargetRefused, NotPermitted, ProcessGone: as `_call_quietly`.
    """
    return _call_quietly(process, libc, libc.functions[TRIM], (0,))


def purge(process: ProcessDirectory, allocator: Allocator) -> Called:
    """Have another allocator give back what it can.

    Raises:
        TargetRefused, NotPermitted, ProcessGone: as `_call_quietly`.
    """
    if allocator.name == MIMALLOC:
        return _call_by_all(process, allocator, *purge_call(allocator))
    return _call_quietly(process, allocator, *purge_call(allocator))


def purge_call(allocator: Allocator) -> tuple[int, tuple[int, ...], bytes]:
    """The function to call, its arguments, and the text whose address comes before them, if any."""
    function = next(iter(allocator.functions.values()))
    return function, _BY_NAME[allocator.name], _PURGE if allocator.name == JEMALLOC else b""


def can_purge(allocator: Allocator) -> bool:
    """Whether there is a function to call."""
    return allocator.name in _BY_NAME and bool(allocator.functions)


def kept_by(allocator: Allocator) -> str:
    """What a purge does not reach, as a part of a sentence."""
    return _KEEPS[allocator.name]


def _call_quietly(
    process: ProcessDirectory, owner: Allocator, function: int, arguments: tuple[int, ...], text: bytes = b""
) -> Called:
    """Call a function by a thread that is quiet.

    Args:
        process: where.
        owner: whose function it is.
        function: its address.
        arguments: integers.
        text: put into memory of the process, and its address before the arguments.
    Raises:
        TargetRefused: no thread is quiet, or none can be borrowed; or as `remote.call.call`.
        NotPermitted, ProcessGone: as `remote.stop.Stop`.
    """
    from dontneed.remote.quiet import quiet_threads

    for seconds in _WAITS_SECONDS:
        time.sleep(seconds)
        for quiet in quiet_threads(process):
            called = _call_by(process, quiet.thread, owner, function, arguments, text)
            if called is not None:
                return called
    msg = f"no thread of process {process.pid} waits where it cannot be inside malloc"
    raise TargetRefused(msg, hint="try again when it is less busy")


def _call_by_all(
    process: ProcessDirectory, owner: Allocator, function: int, arguments: tuple[int, ...], text: bytes = b""
) -> Called:
    """Call a function by each thread that is quiet, one after the other; the longest pause.

    Raises:
        As `_call_quietly`.
    """
    from dontneed.remote.quiet import quiet_threads

    called = _call_quietly(process, owner, function, arguments, text)
    others = (quiet.thread for quiet in quiet_threads(process) if quiet.thread != called.thread)
    more = (_call_by(process, thread, owner, function, arguments, text) for thread in others)
    return max([called, *(each for each in more if each is not None)], key=lambda each: each.pause_seconds)


def _call_by(
    process: ProcessDirectory, thread: int, owner: Allocator, function: int, arguments: tuple[int, ...], text: bytes
) -> Called | None:
    """Call the function by this thread; None if it cannot be, and nothing was changed."""
    from dontneed.remote.call import call
    from dontneed.remote.lender import why_not
    from dontneed.remote.quiet import still_quiet
    from dontneed.remote.stop import Stop

    try:
        if process.read(f"task/{thread}/comm").strip() in _OWN_THREADS:
            return None
        with Stop(process, [thread]) as stop:
            if not still_quiet(stop, thread) or why_not(stop, thread, stop.registers[thread]):
                return None
            _require_loaded(process, owner)
            if text:
                with _Scratch(stop, text) as address:
                    result = call(stop, function, address, *arguments)
            else:
                result = call(stop, function, *arguments)
    except ProcessGone:
        process.read("stat")  # raises if it is not only the thread that has ended
        return None
    return Called((result & 0xFFFF_FFFF ^ 0x8000_0000) - 0x8000_0000, stop.pause_seconds, thread)


def _require_loaded(process: ProcessDirectory, owner: Allocator) -> None:
    """Raise unless the code that is about to be called is still where it was found.

    Raises:
        TargetRefused: the process runs another program since, or has unloaded it.
    """
    table, (start, end, offset) = read_maps(process), owner.mapped.code
    for row, begins in enumerate(table.starts):
        if begins == start and table.ends[row] == end:
            perms, at, _, _, name = table.words(row)
            if "x" in perms and at == offset and name.startswith(owner.mapped.path):
                return
    msg = f"{owner.mapped.path} is no longer where it was in process {process.pid}"
    raise TargetRefused(msg, hint="look at what it runs now, and try again")


class _Scratch:
    """Some bytes in memory of the stopped process; unmapped, unless the function failed and may read them still."""

    def __init__(self, stop: Stop, data: bytes) -> None:
        self._stop = stop
        self._data = data

    def __enter__(self) -> int:
        from dontneed.remote.syscall import inject

        protection, kind = _PROT_READ | _PROT_WRITE, _MAP_PRIVATE | _MAP_ANONYMOUS
        self._address = inject(self._stop, NR.MMAP, 0, PAGE_BYTES, protection, kind, -1, 0)
        if self._address < 0:
            msg = f"process {self._stop.pid} can map no more memory (errno {-self._address})"
            raise TargetRefused(msg, hint="it is at its limit of address space, or of mappings")
        write_memory(self._stop.pid, self._address, self._data)
        return self._address

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        from dontneed.remote.syscall import inject

        if kind is None:
            inject(self._stop, NR.MUNMAP, self._address, PAGE_BYTES)
