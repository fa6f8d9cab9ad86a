"""How glibc's malloc lays out its arenas on x86-64, from 2.23 on: `heap_info`, `malloc_state`, `malloc_chunk`.

None of it is an interface: it changed twice in ten years, and a distribution may patch it. So nothing here is taken for
granted: `observe/malloc/state.py` looks which layout fits what is there, and refuses when none does, or two do.

heap_info stands at the start of a heap: ar_ptr 0, prev 8, size 16, mprotect_size 24, from 2.35 on pagesize 32. Behind
that of an arena's first heap stands its malloc_state, whose mutex is at 0 and whose flags are at 4; that of the main
arena is static data of libc. See malloc/malloc.c and malloc/arena.c of glibc.
"""

from __future__ import annotations

from dontneed.records import Record
from dontneed.units import MIB

HEAP_BYTES = 64 * MIB
"""HEAP_MAX_SIZE: the heaps of thread arenas begin at its multiples. 2.35 and newer use another size if a tunable asks
for huge pages; then nothing is found at these addresses, and the arenas are refused."""

HEAP_INFO_SIZES = (32, 48)
HEAP_INFO_WORDS = 5
"""heap_info: ar_ptr, prev, size, mprotect_size and, from 2.35 on, pagesize; then padding."""

ALIGNMENT = 16
"""MALLOC_ALIGNMENT."""
CHUNK_HEADER_BYTES = 48
"""struct malloc_chunk: prev_size, size, fd, bk, fd_nextsize, bk_nextsize. What lies behind is nobody's while it is
free, and is what malloc_trim itself gives up."""
LEAST_CHUNK_BYTES = 32
PREV_INUSE, IS_MMAPPED, NON_MAIN_ARENA = 1, 2, 4
"""In the size of a chunk."""
FLAG_BITS = 7

NONCONTIGUOUS = 2
"""In malloc_state.flags: the arena does not grow by brk."""
KNOWN_FLAGS = 3
"""NONCONTIGUOUS, and until 2.26 FASTCHUNKS (1); 4 was ARENA_CORRUPTION in 2.23 to 2.25."""

BINS = 127
"""NBINS - 1: pairs of links; bin 0 does not exist."""
UNSORTED_BIN = 1
FIRST_PAGE_BIN = 99
"""largebin_index(4144): bins below hold chunks in which no whole page lies behind the header."""
BINMAP_WORDS = 4


class StateLayout(Record):
    """Where the fields of `malloc_state` are, in bytes.

    Attributes:
        builds: glibc versions with it.
        fastbins: heads of the fastbins, `[start, end)`; empty in builds without them.
        top, bins, binmap, next, system_mem: offsets.
        heap_info: sizes that heap_info may have, in builds with this layout.
    """

    builds: str
    fastbins: tuple[int, int]
    top: int
    bins: int
    binmap: int
    next: int
    system_mem: int
    heap_info: tuple[int, ...]


LAYOUTS = (
    StateLayout("2.23 to 2.26", (8, 88), 88, 104, 2136, 2152, 2176, (32,)),
    StateLayout("2.27 to 2.42", (16, 96), 96, 112, 2144, 2160, 2184, (32, 48)),
    StateLayout("2.43 and newer", (8, 8), 8, 24, 2056, 2072, 2096, (48,)),
)

STATE_BYTES = max(layout.system_mem for layout in LAYOUTS) + 8
"""What is read of a malloc_state to find out which it is."""

MULTIPLE_THREADS = 0x18
"""tcbhead_t.multiple_threads: before 2.36 malloc takes its locks only where this word of the thread is not 0."""
