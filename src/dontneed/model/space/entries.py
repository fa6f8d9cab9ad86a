"""What an entry of a modelled page table says: a code of one byte, and a value.

The low half of the code is the kind of the entry, the high half its flags. The value is a frame number where a page is
present, a swap slot, or a page of a file; along a run of pages it goes up by one a page, but for the kinds that say the
same about each page (`CONSTANT`).
"""

from __future__ import annotations

NONE = 0
ANON = 1
"""Present: a frame of anonymous memory, of this process alone or shared since a fork."""
FILE = 2
"""Present: a frame of the page cache."""
SHMEM = 3
"""Present: a frame of the page cache of a file in memory (tmpfs, memfd, MAP_SHARED anonymous memory)."""
ZERO = 4
"""Present: the shared zero page; with HUGE the huge zero page. No frame is held."""
SWAP = 5
"""Not present: the contents are in a swap slot."""
GUARD = 6
"""Not present: a marker of MADV_GUARD_INSTALL."""
MIGRATION = 7
"""Not present for a moment: the frame is being moved."""
NONLINEAR = 8
"""Not present: which page of the file belongs here (remap_file_pages; until 4.0)."""
POISON = 9
"""Not present: the frame failed."""
PFN = 10
"""Present: mapped by number, no page structure (vvar, device memory)."""
HUGETLB = 11
"""Present: a part of a huge page from the hugetlb pool."""

KIND = 0x0F
WRITE = 0x10
DIRTY = 0x20
YOUNG = 0x40
HUGE = 0x80
"""Mapped by an entry of the table above: 512 pages at once."""

CONSTANT = frozenset((ZERO, GUARD, POISON))
PRESENT = frozenset((ANON, FILE, SHMEM, ZERO, PFN, HUGETLB))
MAPPED = frozenset((ANON, FILE, SHMEM))
"""Kinds that RSS counts."""

KIND_NAMES = {
    NONE: "none",
    ANON: "present, anonymous",
    FILE: "present, file",
    SHMEM: "present, shared memory",
    ZERO: "present, zero page",
    SWAP: "swap",
    GUARD: "guard marker",
    MIGRATION: "migration",
    NONLINEAR: "nonlinear file page",
    POISON: "poisoned",
    PFN: "present, mapped by number",
    HUGETLB: "present, hugetlb",
}

LEAF_PAGES = 512
"""Entries of one page table."""
