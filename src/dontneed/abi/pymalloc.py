"""pymalloc, CPython's allocator of small objects: how its arenas and pools lie in memory.

An arena is 1 MiB of private anonymous memory, cut into pools of 16 KiB. A pool begins with a header of 48 bytes and is
then cut into blocks of one size, from the front on, as they are wanted: what lies behind `nextoffset` was never handed
out since the pool was last set up. Freed blocks form a list through their own first words. A pool without a block in
use goes to its arena's list of free pools and keeps its blocks as they were: taken again for the same size, it goes on
with its old free list; taken for another size, or if it never had one, it is set up anew. The array of arena objects
is one allocation of the C library's, and moves when it grows.

The same from CPython 3.10 to 3.14 in builds with a GIL. Before, pools were one page, of which nothing can be given
back. Builds without a GIL have another allocator, mimalloc.

Source:
    CPython: Objects/obmalloc.c; Include/internal/pycore_obmalloc.h since 3.12.
"""

from __future__ import annotations

ARENA_BYTES = 1 << 20
POOL_BYTES = 16 << 10
POOLS_IN_ARENA = ARENA_BYTES // POOL_BYTES
HEADER_BYTES = 48
"""POOL_OVERHEAD: where the first block begins."""
ALIGNMENT = 16
SIZE_CLASSES = 32
"""Blocks of class `c` have `(c + 1) * ALIGNMENT` bytes, up to 512."""
BLOCKS_AT_MOST = (POOL_BYTES - HEADER_BYTES) // ALIGNMENT
NEVER_USED = 0xFFFF
"""DUMMY_SIZE_IDX: the size class of a pool that was cut off its arena and not set up yet: whoever takes it does."""

POOL_HEADER = (
    ("count", "<u4"),
    ("padding", "<u4"),
    ("freeblock", "<u8"),
    ("nextpool", "<u8"),
    ("prevpool", "<u8"),
    ("arenaindex", "<u4"),
    ("szidx", "<u4"),
    ("nextoffset", "<u4"),
    ("maxnextoffset", "<u4"),
)
"""struct pool_header, as fields of a numpy dtype."""
FREEBLOCK_OFFSET, SZIDX_OFFSET, NEXTOFFSET_OFFSET = 8, 36, 40

ARENA_OBJECT = (
    ("address", "<u8"),
    ("pool_address", "<u8"),
    ("nfreepools", "<u4"),
    ("ntotalpools", "<u4"),
    ("freepools", "<u8"),
    ("nextarena", "<u8"),
    ("prevarena", "<u8"),
)
"""struct arena_object. `address` is 0 in one that is not in use; pools are cut off at `pool_address`."""
ARENA_OBJECT_BYTES = 48
ARENA_OBJECTS_AT_FIRST = 16
"""INITIAL_ARENA_OBJECTS; the array doubles each time."""

DEBUG_HOOK = b"r" + 7 * b"\xfd"
"""What lies before an allocation of the raw domain under debug hooks: its domain, and PYMEM_FORBIDDENBYTE."""

OLDEST, NEWEST = (3, 10), (3, 14)
"""The versions whose layout this is; newer ones have not been seen."""
