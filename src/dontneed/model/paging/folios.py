"""Huge pages as advice sees them that may split a page but not act on half of one: FREE, COLD, PAGEOUT.

A huge page (a *folio*) that the range covers in part is split for good, into ordinary frames, before the advice acts on
its part; one that another process maps too stays whole, and is left alone altogether.

Kernel:
    mm/madvise.c madvise_free_huge_pmd(), madvise_cold_or_pageout_pte_range(): folio_maybe_mapped_shared(),
    split_folio(). Measured on 6.18.
"""

from __future__ import annotations

from dontneed.model.memory.frames import ZERO_FRAME
from dontneed.model.paging.huge import split
from dontneed.model.paging.zap import unmap_file_range
from dontneed.model.space.entries import ANON, DIRTY, HUGE, KIND, LEAF_PAGES, WRITE, YOUNG, ZERO
from dontneed.model.space.vma import LOCKED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from dontneed.model.memory.frames import Frames
    from dontneed.model.memory.page_cache import File
    from dontneed.model.space.mm import Mm
    from dontneed.model.space.vma import Vma


def heads_of(frames: Frames, first: int, count: int) -> Iterator[tuple[int, int]]:
    """The huge pages that `count` frames from `first` on are of: first frame of each, and how many of these it has."""
    last = first + count
    for head in range(first & -LEAF_PAGES, last, LEAF_PAGES):
        if frames.folio_of(head) is not None:
            yield head, min(head + LEAF_PAGES, last) - max(head, first)


def split_cut_folios(mm: Mm, vma: Vma, first: int, last: int) -> None:
    """Split the huge pages that pages `[first, last)` cover in part; those that others map too stay whole."""
    frames = mm.system.frames
    cut = [
        head
        for head, pages in _folios_within(mm, first, last).items()
        if pages < LEAF_PAGES and not frames.is_shared(head, LEAF_PAGES)
    ]
    for start, end, code, frame in mm.table.runs(first, last):
        if code & HUGE and end - start < LEAF_PAGES and code & KIND == ANON and frame & -LEAF_PAGES in cut:
            split(mm, vma, start // LEAF_PAGES)
    for head in cut:
        split_for_good(mm, first, last, head)
    if vma.file is not None and (vma.file.huge or vma.file.folios):
        _split_cut_cached_folios(mm, vma, vma.file, first, last)


def _split_cut_cached_folios(mm: Mm, vma: Vma, file: File, first: int, last: int) -> None:
    """The same of shared memory, whose pages are unmapped by it, all of them: nothing is left there to act on.

    Kernel:
        mm/huge_memory.c unmap_folio(): try_to_unmap(), where anonymous pages are kept by try_to_migrate().
    """
    covered: dict[tuple[int, int, int], int] = {}  # by folio and page table: none is seen whole across two
    for start, end, code, _ in mm.table.runs(first, last):
        if code & KIND == file.kind:
            for head, pages, part in _parts_of_folios(file, vma.file_page(start), end - start):
                place = head, pages, start // LEAF_PAGES
                covered[place] = covered.get(place, 0) + part
    for (head, pages, _), part in covered.items():
        if part < pages and file.folio_of(head) == (head, pages) and not _do_others_map(mm, file, head, pages):
            unmap_file_range(file, head, head + pages)
            file.forget_folio(head)


def _parts_of_folios(file: File, first: int, count: int) -> Iterator[tuple[int, int, int]]:
    """The folios that `count` pages of a file lie in: first page and size of each, and how many of these it has."""
    page, last = first, first + count
    while page < last:
        head, pages = file.folio_of(page)
        end = min(head + pages, last)
        yield head, pages, end - page
        page = end


def _do_others_map(mm: Mm, file: File, first: int, count: int) -> bool:
    """Whether another process maps some of these pages of a file (folio_maybe_mapped_shared)."""
    ours = 0
    for vma in mm.vmas:
        if vma.file is file:
            start, end = (vma.first + page - vma.offset for page in (first, first + count))
            runs = mm.table.runs(max(start, vma.first), min(end, vma.last))
            ours += sum(end - start for start, end, code, _ in runs if code & KIND == file.kind)
    mapped = mm.system.frames.cached_map_count
    return sum(mapped(file.cache[page]) for page in range(first, first + count)) > ours


def split_for_good(mm: Mm, first: int, last: int, head: int) -> None:
    """Make ordinary frames of a huge page that pages `[first, last)` map a part of.

    Kernel:
        mm/rmap.c try_to_migrate_one(): one dirty entry makes the whole page dirty, and so each of its frames then.
        mm/migrate.c try_to_map_unused_to_zeropage(): since 6.12 the zero page takes the place of those that are zero.
    """
    frames = mm.system.frames
    entries = list(_entries_of(mm, first - LEAF_PAGES, last + LEAF_PAGES, head))
    if sum(len(parts) for *_, parts in entries) < frames.mapped_of_folio(head):
        entries = list(_entries_of(mm, 0, mm.top, head))
    if any(code & DIRTY for _, code, *_ in entries):
        frames.make_dirty(head, LEAF_PAGES)
    if mm.system.behaviour.split_finds_zeros:
        for vma, _, offset, parts in entries:
            if not vma.flags & LOCKED:
                _free_zeros_of(mm, offset, parts)
    if frames.folio_of(head) is not None:
        frames.split_folio(head)


def _entries_of(mm: Mm, first: int, last: int, head: int) -> Iterator[tuple[Vma, int, int, range]]:
    """The entries within some pages that map parts of a huge page.

    Yields:
        The mapping, the code, and the frames that are mapped in a row: each at its own number and an offset.
    """
    for vma in mm.vmas.within(max(first, 0), last):
        if not vma.anon_vma:
            continue
        for start, end, code, frame in mm.table.runs(max(vma.first, first), min(vma.last, last)):
            parts = range(max(frame, head), min(frame + end - start, head + LEAF_PAGES))
            if code & KIND == ANON and parts:
                yield vma, code, start - frame, parts


def _free_zeros_of(mm: Mm, offset: int, parts: range) -> None:
    """Map the zero page in place of those parts of a huge page that hold zeros."""
    frames = mm.system.frames
    for part in parts:
        if not frames.load(part):
            mm.table.put(part + offset, part + offset + 1, ZERO | YOUNG, ZERO_FRAME)
            mm.resident[ANON] -= 1
            frames.unmap(part, 1)


def even_out(mm: Mm, first: int, last: int) -> None:
    """Have parts of a huge page that lie in a row be dirty and young alike: as one of them is.

    Kernel:
        mm/mprotect.c mprotect_folio_pte_batch(), modify_prot_start_ptes(): entries side by side are changed as one if
        they are all writable, or all are not.
    """
    for row in _rows(mm, first, last):
        used = 0
        for _, _, code in row:
            used |= code & (DIRTY | YOUNG)
        if len(row) > 1:
            mm.table.recode(row[0][0], row[-1][1], 0, used)


def _rows(mm: Mm, first: int, last: int) -> Iterator[list[tuple[int, int, int]]]:
    """The small entries in a range that map parts of huge pages, by row: pages `[start, end)` with one code."""
    row: list[tuple[int, int, int]] = []
    follows: tuple[int, int, int] | None = None
    for start, end, code, frame in mm.table.runs(first, last):
        if code & (KIND | HUGE) != ANON:
            continue
        for head, pages in heads_of(mm.system.frames, frame, end - start):
            part = max(frame, head)
            page = start + part - frame
            if row and (page % LEAF_PAGES == 0 or (page, part, code & WRITE) != follows or part == head):
                yield row
                row = []
            row.append((page, page + pages, code))
            follows = page + pages, part + pages, code & WRITE
    if row:
        yield row


def shared_folios(mm: Mm, first: int, last: int) -> set[int]:
    """The anonymous huge pages in a range of pages that are mapped more than once, or in part: their first frames."""
    frames = mm.system.frames
    return {head for head in _folios_within(mm, first, last) if frames.is_shared(head, LEAF_PAGES)}


def _folios_within(mm: Mm, first: int, last: int) -> dict[int, int]:
    """The anonymous huge pages mapped in a range: the first frame of each, and how many of its pages are there."""
    pages: dict[int, int] = {}
    for start, end, code, frame in mm.table.runs(first, last):
        if code & KIND == ANON:
            for head, count in heads_of(mm.system.frames, frame, end - start):
                pages[head] = pages.get(head, 0) + count
    return pages
