"""The arenas of glibc's malloc in a process: found, and proven to be what they seem, from the outside.

An arena is believed only if everything that can be known of it agrees; one contradiction, and it is left alone. While
the process runs, a look sees states that never were, since reads are torn; so only what is found while all threads
stand still, and with the arena's lock free, is acted upon. The same checks serve both.

The main arena is static data of libc, known by its self-linked bins. A ring of `next` leads from it through all others,
each of which stands at the start of its first heap. What lies outside the ring is no arena.
"""

from __future__ import annotations

from dontneed.abi import glibc_malloc as abi
from dontneed.errors import Unreadable
from dontneed.observe.malloc.memory import heap_faults, read_heaps
from dontneed.observe.malloc.state import find_states, fit_together, parse_state, word_at
from dontneed.records import Record
from dontneed.spans import Span, Spans
from dontneed.units import PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dontneed.abi.glibc_malloc import StateLayout
    from dontneed.kernel.pagemap import Words
    from dontneed.observe.malloc.memory import Heap, MallocMemory
    from dontneed.observe.malloc.state import ArenaState

_MOST_ARENAS = 1 << 14
"""A longer ring is none: glibc makes eight arenas a processor."""


class Places(Record):
    """Where arenas were found while the process ran.

    Attributes:
        mains: the address of each libc's main arena, and its layout.
        heaps: where heaps may begin, and a page is present.
    """

    mains: tuple[tuple[int, StateLayout], ...]
    heaps: Words


class Arena(Record):
    """An arena, or what the ring of arenas says is one.

    Attributes:
        address: of its malloc_state.
        state: what that says.
        memory: in which its chunks lie: its heaps, or that of brk.
        top: the whole pages in its top, behind the header; empty if there are none, or it is not to be trusted.
        fault: why it is not to be trusted, in a sentence; empty if it may be.
    """

    address: int
    state: ArenaState
    memory: Spans
    top: Span
    fault: str = ""

    @property
    def is_locked(self) -> bool:
        """Whether a thread is inside malloc with it: nothing that it says holds then."""
        return self.state.mutex != 0

    @property
    def is_sound(self) -> bool:
        """Whether it may be acted upon, if the process stands still."""
        return not self.fault and not self.is_locked


def find_main_arenas(memory: MallocMemory, statics: Iterable[tuple[int, int]]) -> list[tuple[int, StateLayout]]:
    """The main arenas in the static data of programs and libraries, as (start, end).

    The right layout is the one by which the ring of arenas leads back; if several do, none is believed.
    """
    closing: dict[int, list[tuple[int, StateLayout]]] = {}
    for start, end in statics:
        for address, layout in find_states(start, memory.read(start, end - start)):
            if _closes(memory, address, layout):
                closing.setdefault(address + layout.bins, []).append((address, layout))
    return [found[0] for found in closing.values() if len(found) == 1]


def read_arenas(memory: MallocMemory, places: Places) -> list[Arena]:
    """Every arena, and what is wrong with it.

    Raises:
        Unreadable: memory moved while it was read, or a ring of arenas leads out of it.
    """
    heaps = read_heaps(memory, places.heaps)
    data = _read_states(memory, [*(main for main, _ in places.mains), *heaps])
    arenas = []
    for main, layout in places.mains:
        ring = {address: data[address] for address in _ring(memory, data, main, layout)}
        states = [parse_state(address, state, layout) for address, state in ring.items()]
        facts = zip(states, _top_sizes(memory, states), fit_together(ring, layout), strict=True)
        arenas += [
            _arena(memory, state, size, heaps, is_main=state.address == main, fits=fits) for state, size, fits in facts
        ]
    return arenas


def _closes(memory: MallocMemory, main: int, layout: StateLayout) -> bool:
    try:
        return bool(_ring(memory, {}, main, layout))
    except Unreadable:
        return False


def _ring(memory: MallocMemory, data: dict[int, bytes], main: int, layout: StateLayout) -> list[int]:
    """The addresses of all arenas, the main one first; `data` has the bytes of each afterwards."""
    ring = [main]
    while True:
        if ring[-1] not in data:
            data[ring[-1]] = memory.read(ring[-1], abi.STATE_BYTES)
        following = word_at(data[ring[-1]], layout.next)
        if following == main:
            return ring
        if following % abi.ALIGNMENT or len(ring) == _MOST_ARENAS:
            msg = f"the list of arenas that begins at {main:#x} does not lead back to it"
            raise Unreadable(msg)
        ring.append(following)


def _read_states(memory: MallocMemory, addresses: list[int]) -> dict[int, bytes]:
    """What is at each address, as far as it can be read."""
    import numpy as np

    rows, could_be_read = memory.read_each(np.array(addresses, np.uint64), abi.STATE_BYTES)
    rows_read = zip(addresses, rows, could_be_read.tolist(), strict=True)
    return {address: row.tobytes() for address, row, was_read in rows_read if was_read}


def _top_sizes(memory: MallocMemory, states: list[ArenaState]) -> list[int]:
    """The size word of each top; 0, which none has, if it cannot be read."""
    import numpy as np

    words = np.array([state.top for state in states], np.uint64) + np.uint64(8)
    rows, _ = memory.read_each(words, 8)
    return [int(size) for size in rows.view(np.uint64)[:, 0]]


def _arena(
    memory: MallocMemory, state: ArenaState, size: int, heaps: dict[int, list[Heap]], *, is_main: bool, fits: bool
) -> Arena:
    own = heaps.get(state.address, [])
    faults = _main_faults(memory, state, size) if is_main else _thread_arena_faults(memory, state, size, own)
    fault = next(_state_faults(state, fits=fits), "") or next(faults, "")
    if fault:
        return Arena(state.address, state, Spans(), Span(0, 0), fault)
    inside = _main_memory(memory, state, heaps) if is_main else _spans_of(own)
    top = Span(0, 0) if is_main and _is_unused(state) else _whole_pages(state, size)
    return Arena(state.address, state, inside, top)


def _state_faults(state: ArenaState, *, fits: bool) -> Iterator[str]:
    if not fits:
        yield f"its bins are not those of glibc {state.layout.builds}"
    if state.flags & ~abi.KNOWN_FLAGS:
        yield f"its flags {state.flags:#x} are not known"


def _thread_arena_faults(memory: MallocMemory, state: ArenaState, size: int, heaps: list[Heap]) -> Iterator[str]:
    if not state.flags & abi.NONCONTIGUOUS:
        yield "it says that it grows by brk, which only the main arena does"
    if not heaps:
        yield "none of its heaps lies at a multiple of 64 MiB (huge pages by a tunable?)"
    for heap in heaps:
        yield from heap_faults(heap, memory)
    chain = _chain(heaps)
    if len(chain) != len(heaps) or chain[-1].prev:
        yield "its heaps are no chain"
    first = chain[-1]
    if state.address - first.base not in state.layout.heap_info:
        yield "it does not stand at the start of its first heap"
    if state.address - first.base == max(abi.HEAP_INFO_SIZES) and any(heap.page_bytes != PAGE_BYTES for heap in heaps):
        yield "its heaps are made of huge pages"
    if sum(heap.size for heap in heaps) != state.system_mem:
        yield "its heaps are not as long as it says"
    yield from _top_faults(state, size)
    newest = chain[0]
    if not newest.base < state.top < newest.base + newest.size:
        yield "its top is not in its newest heap"
    if state.top + _bytes_of(size) != newest.base + newest.size:
        yield "its top does not end where its newest heap ends"


def _main_faults(memory: MallocMemory, state: ArenaState, size: int) -> Iterator[str]:
    if _is_unused(state):
        return
    yield from _top_faults(state, size)
    end = state.top + _bytes_of(size)
    if _bytes_of(size) > state.system_mem:
        yield "its top is longer than all it has"
    if end % PAGE_BYTES:
        yield "its top does not end at a page"
    if Span.outward(state.top, _bytes_of(size)) not in memory.writable:
        yield "its top is not all private anonymous memory"
    if not state.flags & abi.NONCONTIGUOUS and not memory.brk.start <= state.top < end == memory.brk.end:
        yield "its top does not end where the heap of brk ends: somebody else has moved that"


def _top_faults(state: ArenaState, size: int) -> Iterator[str]:
    """What is wrong with a top as a chunk."""
    if state.top % abi.ALIGNMENT:
        yield "its top is not aligned"
    if size & abi.FLAG_BITS != abi.PREV_INUSE:
        yield "its top is marked as no top is"
    if _bytes_of(size) < abi.LEAST_CHUNK_BYTES:
        yield "its top is shorter than a chunk can be"


def _bytes_of(size: int) -> int:
    return size & ~abi.FLAG_BITS


def _is_unused(state: ArenaState) -> bool:
    """Whether nothing was ever allocated: then the top is a bin (initial_top)."""
    return state.top == state.bin_address(abi.UNSORTED_BIN)


def _whole_pages(state: ArenaState, size: int) -> Span:
    return Span.inward(state.top + abi.CHUNK_HEADER_BYTES, max(0, _bytes_of(size) - abi.CHUNK_HEADER_BYTES))


def _chain(heaps: list[Heap]) -> list[Heap]:
    """The heaps from the newest on, each followed by its `prev`; as far as that leads."""
    by_base = {heap.base: heap for heap in heaps}
    newest = by_base.keys() - {heap.prev for heap in heaps}
    chain = [by_base[min(newest)]] if newest else heaps[:1]
    while chain[-1].prev in by_base and len(chain) < len(heaps):
        chain.append(by_base[chain[-1].prev])
    return chain


def _main_memory(memory: MallocMemory, state: ArenaState, heaps: dict[int, list[Heap]]) -> Spans:
    """Where chunks of the main arena can be: in the heap of brk; or, where that ended, in memory that no heap is in."""
    if not state.flags & abi.NONCONTIGUOUS:
        return Spans((memory.brk,)) & memory.writable
    return memory.writable - Spans((heap.base, heap.base + abi.HEAP_BYTES) for each in heaps.values() for heap in each)


def _spans_of(heaps: list[Heap]) -> Spans:
    return Spans((heap.base, heap.base + heap.size) for heap in heaps)
