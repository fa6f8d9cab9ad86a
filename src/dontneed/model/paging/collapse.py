"""Making small pages huge again: MADV_COLLAPSE, which is asked for, and khugepaged, which is not.

Both copy what a slot holds into a fresh huge page, and fill the holes with zeros: memory that was given back page by
page is taken again, and RSS grows. khugepaged does so in mappings that want huge pages, wherever a single page of the
slot was used; MADV_COLLAPSE does not even ask for that.

Kernel:
    mm/khugepaged.c: hpage_collapse_scan_pmd(), collapse_huge_page(), collapse_file(), collapse_pte_mapped_thp();
    madvise_collapse() since 6.1. Measured on 6.18.
"""

from __future__ import annotations

from dontneed.abi.errnos import EINVAL
from dontneed.model.memory.swap_in import swap_in
from dontneed.model.paging import huge
from dontneed.model.paging.zap import unmap_anonymous, unmap_file_range
from dontneed.model.space.entries import ANON, HUGE, KIND, LEAF_PAGES, PRESENT, SHMEM, SWAP, WRITE, YOUNG, ZERO
from dontneed.model.space.vma import DROPPABLE, HUGETLB, MAYBE_GUARD, NO_HUGE_PAGE, SPECIAL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from dontneed.model.memory.page_cache import File
    from dontneed.model.space.leaf import Run
    from dontneed.model.space.mm import Mm
    from dontneed.model.space.vma import Vma

MOST_EMPTY = 511
"""khugepaged/max_ptes_none: pages without a frame of their own that a slot may have."""
MOST_SWAPPED = 64
"""khugepaged/max_ptes_swap."""
MOST_SHARED = 256
"""khugepaged/max_ptes_shared."""

_DONE, _PASSED_OVER, _ENDS = "done", "passed over", "ends"
"""What becomes of a slot under MADV_COLLAPSE: it is huge; it is not, but the next one is tried; nor is that."""


def collapse(mm: Mm, vma: Vma, first: int, last: int) -> int:
    """MADV_COLLAPSE: make the slots that lie whole in a range huge, ascending, until one ends it.

    Returns:
        EINVAL: the mapping can hold no huge page, the range lies within a slot, or a slot of it cannot be huge: there
        is nothing, not even an empty page table; there is a guard; a private copy in a file. Those before it are; and
        those behind it, if it is a guard or a slot of swap in a file that is in the way. Since 7.2 a range within a
        slot is no hindrance: there is nothing to do.
    """
    start, end = -(-first // LEAF_PAGES), last // LEAF_PAGES
    if not _can_be_huge(mm, vma) or (end < start and not mm.system.behaviour.collapse_within):
        return EINVAL
    collapse_slot = _collapse_anonymous if vma.is_anonymous else _collapse_shared
    passed_over = False
    for slot in range(start, end):
        outcome = collapse_slot(mm, vma, slot)
        if outcome == _ENDS:
            return EINVAL
        passed_over |= outcome == _PASSED_OVER
    return EINVAL if passed_over else 0


def khugepaged(mm: Mm, first: int, last: int, *, most_empty: int = MOST_EMPTY) -> int:
    """One scan of khugepaged over a range.

    Args:
        mm: the address space.
        first: where the range starts.
        last: where it ends.
        most_empty: max_ptes_none.
    Returns:
        How many slots are huge that were not.
    """
    collapsed = 0
    for vma in mm.vmas.within(first, last):
        if not (vma.is_anonymous and huge.is_wanted(mm, vma) and _can_be_huge(mm, vma)):
            continue
        start, end = max(vma.first, first), min(vma.last, last)
        for slot in range(-(-start // LEAF_PAGES), end // LEAF_PAGES):
            runs = mm.table.runs(*huge.pages_of(slot))
            if runs and not runs[0][2] & HUGE and _is_worth_it(mm, runs, most_empty):
                collapsed += _collapse_anonymous(mm, vma, slot) == _DONE
    return collapsed


def _can_be_huge(mm: Mm, vma: Vma) -> bool:
    """thp_vma_allowable_order(): room for a slot, and memory of a kind that huge pages are made of."""
    if mm.huge_disabled or vma.flags & (NO_HUGE_PAGE | SPECIAL | HUGETLB | DROPPABLE):
        return False
    if not huge.covers(vma, -(-vma.first // LEAF_PAGES)):
        return False
    return vma.anon_vma > 0 if vma.is_anonymous else vma.file is not None and vma.file.kind == SHMEM


# Anonymous memory


def _collapse_anonymous(mm: Mm, vma: Vma, slot: int) -> str:
    """collapse_huge_page(); the page table stays, as the deposit of the huge entry."""
    if slot not in mm.table.leaves:
        return _ENDS
    first, last = huge.pages_of(slot)
    runs = mm.table.runs(first, last)
    if runs and runs[0][2] & HUGE:
        return _DONE
    if mm.system.behaviour.collapse_needs_writable and not any(code & WRITE for _, _, code, _ in runs):
        return _ENDS
    for start, end, code, slots in runs:
        if code & KIND == SWAP:
            swap_in(mm, vma, start, end, slots, write=False)
        elif code & KIND not in PRESENT:
            return _ENDS
    runs, _ = mm.table.take(first, last)
    head = huge.map_fresh(mm, vma, slot)
    for start, end, code, frame in runs:
        if code & KIND == ANON:
            mm.system.frames.copy(frame, head + start, end - start)
            unmap_anonymous(mm.system, frame, end - start)
            mm.resident[ANON] -= end - start
    return _DONE


def _is_worth_it(mm: Mm, runs: Sequence[Run], most_empty: int) -> bool:
    """Whether khugepaged takes a slot: hpage_collapse_scan_pmd()."""
    behaviour = mm.system.behaviour
    swapped = sum(end - start for start, end, code, _ in runs if code & KIND not in PRESENT)
    own = sum(end - start for start, end, code, _ in runs if code & KIND == ANON)
    used = sum(end - start for start, end, code, _ in runs if code & KIND == ANON and code & YOUNG)
    has_zero = any(code & KIND == ZERO for _, _, code, _ in runs)
    writable = [code & WRITE > 0 for _, _, code, _ in runs if code & KIND == ANON]
    if behaviour.collapse_needs_writable and not any(writable):
        return False
    if not behaviour.collapses_read_only and not all(writable):
        return False
    return (
        LEAF_PAGES - own - swapped <= most_empty
        and swapped <= (MOST_SWAPPED if behaviour.collapses_swapped else 0)
        and _shared_pages(mm, runs) <= (MOST_SHARED if behaviour.collapses_shared else 0)
        and used >= (LEAF_PAGES // 2 if swapped else 1)
        and (behaviour.collapses_zero_page or not has_zero)
    )


def _shared_pages(mm: Mm, runs: Sequence[Run]) -> int:
    """How many pages other processes map too; of a huge page all parts are shared if one is."""
    frames = mm.system.frames
    shared = 0
    for start, end, code, first in runs:
        if code & KIND == ANON and not frames.is_exclusive(first, end - start):
            for frame in range(first, first + end - start):
                head = frames.folio_of(frame)
                shared += frames.is_shared(frame, 1) if head is None else frames.is_shared(head, LEAF_PAGES)
    return shared


# Shared memory


def _collapse_shared(mm: Mm, vma: Vma, slot: int) -> str:
    """collapse_file(), then collapse_pte_mapped_thp() to map it here; this needs no page table, so that one goes."""
    first, last = huge.pages_of(slot)
    code, _ = mm.table.get(first)
    if code & HUGE:
        return _DONE
    file = vma.file
    if file is None or not huge.covers(vma, slot) or not _make_huge(file, vma.file_page(first)):
        return _ENDS
    runs = mm.table.runs(first, last)
    hindrance = next((code & KIND for _, _, code, _ in runs if code & KIND != SHMEM), SHMEM)
    if hindrance != SHMEM:
        return _ENDS if hindrance in PRESENT else _PASSED_OVER
    for start, end, _, frame in runs:
        mm.system.frames.unmap_cached(frame, end - start)
        mm.resident[SHMEM] -= end - start
    mm.table.clear(first, last)
    if slot in mm.table.leaves:
        mm.table.drop_leaf(slot)
    faults = mm.minor_faults
    huge.map_cached(mm, vma, first, write=False)
    mm.minor_faults = faults
    return _DONE


def _make_huge(file: File, head: int) -> bool:
    """Put one huge page in the place of what a file in memory has from page `head` on, if it has anything."""
    if head in file.huge:
        return True
    pages = range(head, head + LEAF_PAGES)
    if not any(page in file.cache or page in file.swapped for page in pages):
        return False
    unmap_file_range(file, pages.start, pages.stop)
    _retract_tables(file, head)
    frames = file.system.frames
    fresh = frames.allocate(LEAF_PAGES)
    for page, frame in zip(pages, range(fresh, fresh + LEAF_PAGES), strict=True):
        if page in file.cache or page in file.swapped:
            frames.copy(file.frame(page), frame, 1)
            file.drop(page)
        file.cache[page] = frame
        file.dirty.add(frame)
    file.huge.add(head)
    return True


def _retract_tables(file: File, head: int) -> None:
    """Free the page tables that are empty now, in every process, so that its next touch maps the huge page whole.

    Kernel:
        mm/khugepaged.c retract_page_tables(): not of mappings with copies of their own, or that may hold guards.
    """
    for mm in file.mappers:
        for vma in mm.vmas:
            if vma.file is not file or vma.anon_vma or vma.flags & MAYBE_GUARD:
                continue
            slot = (vma.first + head - vma.offset) // LEAF_PAGES
            if huge.covers(vma, slot) and mm.table.leaves.get(slot) == ():
                mm.table.drop_leaf(slot)
