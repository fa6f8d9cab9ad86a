"""Transparent huge pages: 512 pages mapped by one entry of the table above, as long as nobody needs them apart.

The 512 pages of one page table are a *slot* here. A slot becomes huge when it is touched first, if the mapping covers
it and wants that; once it has a page table it is filled with small pages, even if the table is empty: then only a
collapse (`collapse.py`) makes it huge. Where a part has to change alone, the entry is split; the huge page behind it
stays one (a folio), and is held whole until its last part goes. That is why half a discarded huge page frees nothing.

Huge pages of shared memory are made by a collapse alone (shmem_enabled is never), and are mapped whole by whoever
touches them in a mapping that lies right. Split, their entry just goes: the pages can be found again.

Kernel:
    mm/huge_memory.c since 2.6.38 do_huge_pmd_anonymous_page(), do_huge_pmd_wp_page(), __split_huge_pmd_locked();
    mm/memory.c do_set_pmd(), finish_fault(), __wp_can_reuse_large_anon_folio(). Until 4.4 a split entry split the page.
"""

from __future__ import annotations

from dontneed.model.memory.frames import HUGE_ZERO_FRAME, ZERO_FRAME
from dontneed.model.memory.page_cache import note_use
from dontneed.model.space.entries import (
    ANON,
    DIRTY,
    FILE,
    HUGE,
    HUGETLB,
    KIND,
    LEAF_PAGES,
    NONE,
    SHMEM,
    WRITE,
    YOUNG,
    ZERO,
)
from dontneed.model.space.vma import HUGE_PAGE, NO_HUGE_PAGE, SHARED
from dontneed.model.space.vma import WRITE as VM_WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from dontneed.model.space.mm import Mm
    from dontneed.model.space.vma import Vma

WANTED = HUGE_PAGE
"""The flag of mappings that want huge pages where not all do."""

_USED = DIRTY | YOUNG


def is_wanted(mm: Mm, vma: Vma) -> bool:
    """Whether anonymous memory of a mapping becomes huge of itself."""
    system = mm.system
    if not system.behaviour.huge_pages or mm.huge_disabled or vma.flags & NO_HUGE_PAGE:
        return False
    return system.huge_enabled == "always" or (system.huge_enabled == "madvise" and vma.flags & WANTED > 0)


def covers(vma: Vma, slot: int) -> bool:
    """Whether a mapping has all pages of a slot; of a file, those of one aligned stretch of 512."""
    if vma.file is not None and (vma.first - vma.offset) % LEAF_PAGES:
        return False
    return vma.first <= slot * LEAF_PAGES and (slot + 1) * LEAF_PAGES <= vma.last


# Nothing there yet


def fillings(mm: Mm, vma: Vma, first: int, last: int) -> Iterator[tuple[int, int, bool]]:
    """Cut pages that have no entries into ranges to fill: (first, last, whether they are a slot that can be huge)."""
    start = page = first
    while page < last:
        slot = page // LEAF_PAGES
        end = min((slot + 1) * LEAF_PAGES, last)
        if slot not in mm.table.leaves and covers(vma, slot):
            if start < page:
                yield start, page, False
            yield page, end, True
            start = end
        page = end
    if start < last:
        yield start, last, False


def fill_slot(mm: Mm, vma: Vma, slot: int, *, write: bool) -> None:
    """Map a slot without a page table: a fresh huge page for writing, the huge zero page for reading."""
    mm.minor_faults += 1
    if write or not mm.system.behaviour.huge_zero_page:
        map_fresh(mm, vma, slot)
    else:
        mm.table.put(*pages_of(slot), ZERO | HUGE | YOUNG, HUGE_ZERO_FRAME)


def map_fresh(mm: Mm, vma: Vma, slot: int) -> int:
    """Map a fresh huge page, whatever the slot's entry was; the number of its first frame."""
    head = mm.system.frames.allocate_huge()
    mm.table.put(*pages_of(slot), ANON | HUGE | _USED | (WRITE if vma.flags & VM_WRITE else 0), head)
    mm.resident[ANON] += LEAF_PAGES
    return head


def map_cached(mm: Mm, vma: Vma, page: int, *, write: bool) -> bool:
    """Map what a huge page of the page cache has for the slot of `page`, if it is one and the mapping lies right.

    Args:
        mm: whose.
        vma: of a file; if it is private, the touch is a read.
        page: that was touched, and has no entry.
        write: the touch is a write.
    Returns:
        Whether `page` is mapped now.
    Kernel:
        Where there is a page table already, small pages: since 6.18 a read maps all that are missing, and a write all
        if there is none yet (measured); before, and otherwise, as of any file.
    """
    file, slot = vma.file, page // LEAF_PAGES
    if file is None or not file.huge or not covers(vma, slot):
        return False
    first, last = pages_of(slot)
    head = vma.file_page(first)
    if head not in file.huge:
        return False
    frame = file.cache[head]
    code = file.kind | YOUNG
    if vma.flags & SHARED and vma.flags & VM_WRITE:
        code |= WRITE | (DIRTY if write else 0)
    if slot not in mm.table.leaves and not vma.flags & NO_HUGE_PAGE:
        gaps = [(first, last)]
        code |= HUGE
    elif mm.system.behaviour.maps_whole_folio and not (write and mm.table.runs(first, last)):
        gaps = [(start, end) for start, end, there, _ in mm.table.segments(first, last) if there == NONE]
    else:
        return False
    mm.minor_faults += 1
    for start, end in gaps:
        mm.table.put(start, end, code, frame + start - first)
        mm.system.frames.map_cached(frame + start - first, end - start)
        mm.resident[file.kind] += end - start
    return True


def folio_at(vma: Vma, page: int) -> tuple[int, int]:
    """The pages that the folio of the cache which holds `page` would be mapped at; of one that does not fit, `page`.

    Kernel:
        mm/filemap.c filemap_map_folio_range(), mm/memory.c finish_fault(): within the mapping, and within one table.
    """
    file = vma.file
    index = vma.file_page(page)
    head, pages = file.folio_of(index) if file is not None else (index, 1)
    first = page - (index - head)
    if vma.first <= first and first + pages <= vma.last and first // LEAF_PAGES == (first + pages - 1) // LEAF_PAGES:
        return first, first + pages
    return page, page + 1


# Something there


def write_protected(mm: Mm, vma: Vma, page: int, code: int) -> bool:
    """Answer a write to a huge entry that is mapped read-only (do_huge_pmd_wp_page).

    Args:
        mm: whose.
        vma: the mapping; it has an anon_vma if it is private.
        page: that is written.
        code: of the entry.
    Returns:
        Whether the slot can be written now; else its entry is split, and the fault is to be taken once more.
    Kernel:
        A shared huge page was copied whole until 5.7 (3917c80280c9). The huge zero page gave way to a huge page then
        too, and does again since 6.13.
    """
    slot = page // LEAF_PAGES
    first, last = pages_of(slot)
    kind, frame = code & KIND, mm.table.get(first)[1]
    behaviour = mm.system.behaviour
    if kind == ZERO and behaviour.huge_zero_becomes_huge:
        map_fresh(mm, vma, slot)
    elif kind == ANON and not mm.system.frames.is_shared(frame, LEAF_PAGES):
        for each in range(frame, frame + LEAF_PAGES):
            mm.system.frames.claim(each)
        mm.table.recode(first, last, 0, WRITE | _USED)
    elif kind == ANON and behaviour.huge_copied_whole:
        copy = map_fresh(mm, vma, slot)
        mm.resident[ANON] -= LEAF_PAGES
        mm.system.frames.copy(frame, copy, LEAF_PAGES)
        mm.system.frames.unmap(frame, LEAF_PAGES)
    elif kind in (FILE, SHMEM) and vma.flags & SHARED:
        if vma.file is not None:
            vma.file.dirty.update(range(frame, frame + LEAF_PAGES))
        mm.table.recode(first, last, 0, WRITE | _USED)
    else:
        split(mm, vma, slot)
        return False
    mm.minor_faults += 1
    return True


def may_reuse_part(mm: Mm, page: int, frame: int) -> bool:
    """Whether the process that maps `frame` at `page`, and no other does, may write to it after a fork.

    What is no part of a huge page may be. Of a part, older kernels knew only that the whole was in use by someone.

    Kernel:
        mm/memory.c: reuse_swap_page() until 5.8 asked for the page mapped most often; page_count() == 1 until 6.14 is
        true of no part; since 6.15 the whole has to be of this process alone, and the last part of it that is mapped
        is copied all the same, so that the whole can be freed (__wp_can_reuse_large_anon_folio).
    """
    frames = mm.system.frames
    head = frames.folio_of(frame)
    if head is None:
        return True
    rule = mm.system.behaviour.reuses_parts
    if rule == "never" or frames.is_shared(head, LEAF_PAGES):
        return False
    mapped = frames.mapped_of_folio(head)
    return rule == "unshared" or (mapped > 1 and _mapped_here(mm, page - (frame - head), head) == mapped)


def _mapped_here(mm: Mm, page: int, head: int) -> int:
    """How many parts of a huge page this process maps: first looked for where `page` would be its first."""
    ours = _parts_within(mm, page, page + LEAF_PAGES, head)
    if ours == mm.system.frames.mapped_of_folio(head):
        return ours
    return sum(_parts_within(mm, vma.first, vma.last, head) for vma in mm.vmas if vma.anon_vma)


def _parts_within(mm: Mm, first: int, last: int, head: int) -> int:
    return sum(
        end - start
        for start, end, code, frame in mm.table.runs(max(first, 0), last)
        if code & KIND == ANON and head <= frame < head + LEAF_PAGES
    )


# Splitting


def split_at(mm: Mm, vma: Vma, page: int) -> None:
    """Split the entry that maps a huge page across `page`, if one does."""
    if not page & (LEAF_PAGES - 1):
        return
    code, _ = mm.table.get(page)
    if code & HUGE and code & KIND != HUGETLB:
        split(mm, vma, page // LEAF_PAGES)


def split(mm: Mm, vma: Vma, slot: int) -> None:
    """Split the huge entry of a slot: 512 entries map the same frames then, or, of a file, none do."""
    first, last = pages_of(slot)
    code, frame = mm.table.get(first)
    kind = code & KIND
    if kind == ZERO:
        mm.table.put(first, last, ZERO | YOUNG, ZERO_FRAME)
    elif kind == ANON:
        mm.table.split_huge(slot)
        if not mm.system.behaviour.huge_outlives:
            _split_for_good(mm, frame)
    else:
        mm.table.clear(first, last)
        mm.resident[kind] -= LEAF_PAGES
        note_use(mm, vma, code, frame, LEAF_PAGES)
        mm.system.frames.unmap_cached(frame, LEAF_PAGES)


def pages_of(slot: int) -> tuple[int, int]:
    """The pages of a slot."""
    return slot * LEAF_PAGES, (slot + 1) * LEAF_PAGES


def _split_for_good(mm: Mm, frame: int) -> None:
    head = mm.system.frames.folio_of(frame)
    if head is not None:
        mm.system.frames.split_folio(head)
