"""Taking pages away from an address space: what MADV_DONTNEED, munmap, truncation and exit have in common.

Kernel:
    2.6.32: mm/memory.c zap_page_range() → unmap_vmas() → … → zap_pte_range(); 6.18: zap_page_range_single_batched() →
    … → zap_present_ptes() and zap_nonpresent_ptes().
"""

from __future__ import annotations

from dontneed.model.entries import (
    ANON,
    DIRTY,
    FILE,
    GUARD,
    HUGETLB,
    KIND,
    MIGRATION,
    POISON,
    SHMEM,
    SWAP,
    YOUNG,
)
from dontneed.model.huge import release_hugetlb, split_at
from dontneed.model.vma import RAND_READ, SEQ_READ, SHARED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.model.leaf import Run
    from dontneed.model.mm import Mm
    from dontneed.model.page_cache import File
    from dontneed.model.system import System
    from dontneed.model.vma import Vma

NOTHING: frozenset[int] = frozenset()
GUARDS = frozenset((GUARD,))
"""What every advice keeps and munmap drops."""
PRIVATE_COPIES = frozenset((ANON, SWAP, GUARD, MIGRATION, POISON))
"""What a hole punched into the file leaves alone (even_cows=0)."""


def zap(mm: Mm, vma: Vma, first: int, last: int, *, keep: frozenset[int] = NOTHING, free_tables: bool = False) -> None:
    """Take pages `[first, last)` of `vma` away: frames, swap slots and entries; the mapping stays.

    Args:
        mm: whose.
        vma: the mapping that all of the pages lie in.
        first: the first page.
        last: the page behind the last.
        keep: kinds of entries that are left alone.
        free_tables: free the page tables that the range covers whole and that are empty then.
    """
    mm.note_peak()
    path = mm.system.path
    if path is not None:
        path.zapping(mm, vma, first, last, keep)
    split_at(mm, vma, first)
    split_at(mm, vma, last)
    runs, emptied = mm.table.take(first, last, keep)
    _release(mm, vma, runs)
    if free_tables:
        for number in emptied:
            mm.table.drop_leaf(number)
    if path is not None:
        path.zapped(mm, len(emptied) if free_tables else 0)


def unmap_file_range(file: File, first: int, last: int) -> None:
    """Unmap pages `[first, last)` of a file from every process; private copies stay."""
    for mm in list(file.mappers):
        for vma in mm.vmas:
            if vma.file is file:
                start = max(vma.first, vma.first + first - vma.offset)
                end = min(vma.last, vma.first + last - vma.offset)
                if start < end:
                    zap(mm, vma, start, end, keep=PRIVATE_COPIES)


def unmap_anonymous(system: System, first: int, count: int) -> None:
    """Unmap anonymous frames once; what only the swap cache holds then goes, with its slot."""
    swap, frames = system.swap, system.frames
    if not swap.cache:
        frames.unmap(first, count)
        return
    for frame in range(first, first + count):
        slot = swap.slot_of(frame)
        if slot is None or frames.map_count(frame) > 1:
            frames.unmap(frame, 1)
        elif swap.entries(slot):
            frames.leave_unmapped(frame)  # other entries name the slot: its cached frame stays
        else:
            swap.drop_from_cache(frame)
            frames.unmap(frame, 1)


def release_slots(system: System, first: int, count: int) -> None:
    """Take one entry away from each of these swap slots; a frame that only cached them goes too."""
    for frame in system.swap.release(first, count):
        if not system.frames.map_count(frame):
            system.swap.drop_from_cache(frame)
            system.frames.release_unmapped(frame)


def _release(mm: Mm, vma: Vma, runs: list[Run]) -> None:
    """Let go of what entries held that were taken out of the page table."""
    system, resident = mm.system, mm.resident
    frames = system.frames
    plain = not system.swap.cache
    anonymous = 0
    for start, end, code, value in runs:
        kind = code & KIND
        pages = end - start
        if kind == ANON:
            anonymous += pages
            if plain:
                frames.unmap(value, pages)
            else:
                unmap_anonymous(system, value, pages)
        elif kind in (FILE, SHMEM):
            resident[kind] -= pages
            _note_use(mm, vma, code, value, pages)
            frames.unmap_cached(value, pages)
        elif kind == SWAP:
            resident[SWAP] -= pages
            release_slots(system, value, pages)
        elif kind == HUGETLB:
            release_hugetlb(mm, vma, value, pages)
    resident[ANON] -= anonymous


def _note_use(mm: Mm, vma: Vma, code: int, frame: int, pages: int) -> None:
    """Hand what an entry knew of a file's page to the page: that it is dirty, that it was used."""
    file = vma.file
    if file is None:
        return
    if code & DIRTY and vma.flags & SHARED:
        file.dirty.update(range(frame, frame + pages))
    blind = SEQ_READ | RAND_READ if mm.system.behaviour.zap_ignores_random else SEQ_READ
    if code & YOUNG and not vma.flags & blind:
        file.referenced.update(range(frame, frame + pages))
