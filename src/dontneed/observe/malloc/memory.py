"""`MallocMemory`: where the structures of malloc can lie in a process, and how they are read; `Heap`: 64 MiB of it."""

from __future__ import annotations

from functools import partial

from dontneed.abi.glibc_malloc import HEAP_BYTES, HEAP_INFO_SIZES, HEAP_INFO_WORDS
from dontneed.kernel.process_memory import read_each, read_gently, read_memory
from dontneed.records import Record
from dontneed.spans import Span, Spans
from dontneed.units import PAGE_BYTES, round_up

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dontneed.kernel.maps import MapsTable
    from dontneed.kernel.pagemap import Words
    from dontneed.kernel.process_memory import Bytes, Truths

_BRK = "[heap]"


class MallocMemory(Record):
    """What a search for arenas has to know of a process.

    Attributes:
        writable: its private anonymous memory that can be read and written, neighbours joined.
        brk: the heap that grows by brk; empty without one.
        read: bytes at an address.
        read_each: bytes at each of many addresses, and which could be read.
        peek: a few bytes at an address, fast, or None where nothing is; None: there is no such way.
    """

    writable: Spans
    brk: Span
    read: Callable[[int, int], bytes]
    read_each: Callable[[Words, int], tuple[Bytes, Truths]]
    peek: Callable[[int, int], bytes | None] | None = None


class Heap(Record):
    """A heap of a thread arena, as its heap_info says.

    Attributes:
        base: its address, a multiple of 64 MiB.
        arena: ar_ptr, the malloc_state that it belongs to.
        prev: the heap that was the last one before it; 0 for the first.
        size: bytes in use, from `base` on.
        writable: mprotect_size: bytes that were ever in use, and can be written.
        page_bytes: pagesize; only of 2.35 and newer, else the first bytes of the malloc_state.
    """

    base: int
    arena: int
    prev: int
    size: int
    writable: int
    page_bytes: int


def memory_of(pid: int, table: MapsTable) -> MallocMemory:
    """The memory of a process, of which `table` are the mappings."""
    kinds = table.classify(_kind)
    rows = zip(table.starts, table.ends, kinds, strict=True)
    writable = [(start, end, kind) for start, end, kind in rows if kind]
    brk = [(start, end) for start, end, kind in writable if kind == _BRK]
    return MallocMemory(
        writable=Spans((start, end) for start, end, _ in writable),
        brk=Span(brk[0][0], brk[-1][1]) if brk else Span(0, 0),
        read=partial(read_memory, pid),
        read_each=partial(read_each, pid),
        peek=partial(read_gently, pid),
    )


def _kind(name: str, perms: str) -> str:
    """What a mapping is to malloc; nothing if it is none of its memory."""
    if perms == "rw-p" and (name in ("", _BRK) or name.startswith("[anon:")):
        return name or "anonymous"
    return ""


def places_of_heaps(writable: Spans) -> Words:
    """Every address at which a heap may begin."""
    import numpy as np

    rows = writable.array.tolist()
    places = [place for start, end in rows for place in range(round_up(start, HEAP_BYTES), end, HEAP_BYTES)]
    return np.array(places, np.uint64)


def read_heaps(memory: MallocMemory, places: Words) -> dict[int, list[Heap]]:
    """What may be heaps, by the arena that they say they belong to: one at the start of another heap.

    Nothing else of them is checked yet.
    """
    rows, could_be_read = memory.read_each(places, HEAP_INFO_WORDS * 8)
    bases = places.tolist()
    starts = {base + length for base in bases for length in HEAP_INFO_SIZES}
    found: dict[int, list[Heap]] = {}
    for base, words, was_read in zip(bases, rows.view("u8").tolist(), could_be_read.tolist(), strict=True):
        if was_read and words[0] in starts:
            found.setdefault(words[0], []).append(Heap(base, *words))
    return found


def heap_faults(heap: Heap, memory: MallocMemory) -> Iterator[str]:
    """What is wrong with a heap, in sentences; nothing if it is one."""
    where = f"the heap at {heap.base:#x}"
    if heap.size % PAGE_BYTES or heap.writable % PAGE_BYTES or not heap.size:
        yield f"{where} is no number of pages long"
    if heap.size > heap.writable:
        yield f"{where} uses more than it has ever had"
    if heap.writable > HEAP_BYTES:
        yield f"{where} is longer than a heap can be"
    if Span.outward(heap.base, heap.writable) not in memory.writable:
        yield f"{where} is not all private anonymous memory"
