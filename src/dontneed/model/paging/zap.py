"""Taking pages away from an address space: what MADV_DONTNEED, munmap, truncation and exit have in common.

Kernel:
    2.6.32: mm/memory.c zap_page_range() → unmap_vmas() → … → zap_pte_range(); 6.18: zap_page_range_single_batched() →
    … → zap_present_ptes() and zap_nonpresent_ptes().
"""

from __future__ import annotations

from dontneed.model.memory.frames import FIRST_HUGE_FRAME
from dontneed.model.memory.page_cache import note_use
from dontneed.model.memory.swap_in import free_swap
from dontneed.model.paging import hugetlb
from dontneed.model.paging.huge import split_at
from dontneed.model.space.entries import (
    ANON,
    FILE,
    GUARD,
    HUGETLB,
    KIND,
    MIGRATION,
    POISON,
    SHMEM,
    SWAP,
)
from dontneed.model.space.vma import HUGETLB as VM_HUGETLB

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.model.memory.page_cache import File
    from dontneed.model.space.leaf import Run
    from dontneed.model.space.mm import Mm
    from dontneed.model.space.vma import Vma
    from dontneed.model.system import System

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
    mm.system.frames.drain()
    path = mm.system.path
    if path is not None:
        path.zapping(mm, vma, first, last, keep)
    emptied: list[int] = []
    if vma.flags & VM_HUGETLB:
        hugetlb.unmap(mm, vma, first, last)
    else:
        split_at(mm, vma, first)
        split_at(mm, vma, last)
        runs, emptied = mm.table.take(first, last, keep)
        _release(mm, vma, runs)
    if free_tables:
        mm.table.drop_leaves(emptied)
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


def punch(file: File, first: int, last: int) -> None:
    """Punch a hole into a file: unmap its pages in every process, and forget them; they read as zeros."""
    if file.kind == HUGETLB:
        hugetlb.punch(file, first, last)
        return
    unmap_file_range(file, first, last)
    for head, pages in file.cut_folios(first, last):
        unmap_file_range(file, head, head + pages)  # who splits it needs it for himself
    for page in range(first, min(last, file.pages)):
        slot = file.forget(page)
        if slot is not None:
            release_slots(file.system, slot, 1)


def unmap_anonymous(system: System, first: int, count: int) -> None:
    """Unmap anonymous frames once; what only the swap cache holds then goes, with its slot."""
    frames = system.frames
    start, last = first, first + count
    for frame in system.swap.cached_frames(first, count):
        if frames.map_count(frame) == 1 and not free_swap(system, frame):
            frames.unmap(start, frame - start)
            frames.leave_unmapped(frame)  # other entries name the slot: its cached frame stays
            start = frame + 1
    frames.unmap(start, last - start)


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
    # A sparse tebibyte is half a million runs of one page: then only their number is taken down.
    freed_until = FIRST_HUGE_FRAME if plain and frames.are_unremarkable else 0
    anonymous = freed = 0
    for start, end, code, value in runs:
        kind = code & KIND
        pages = end - start
        if kind == ANON:
            anonymous += pages
            if value < freed_until:
                freed += pages
            elif plain:
                frames.unmap(value, pages)
            else:
                unmap_anonymous(system, value, pages)
        elif kind in (FILE, SHMEM):
            resident[kind] -= pages
            note_use(mm, vma, code, value, pages)
            frames.unmap_cached(value, pages)
        elif kind == SWAP:
            resident[SWAP] -= pages
            release_slots(system, value, pages)
    resident[ANON] -= anonymous
    frames.in_use -= freed
