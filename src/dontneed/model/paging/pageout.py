"""Reclaim on demand: MADV_COLD, MADV_PAGEOUT, and their opposite, MADV_WILLNEED.

Only pages that one entry maps are touched; whatever is shared with another process, or mapped twice by this one, stays
as it is, and nobody is told. A huge page that the range covers in part is split first, and only its part is taken.

Where a page goes depends on what would be lost:

    anonymous                   to swap; without swap it stays
    anonymous, lazily freed     nowhere, with or without swap; if it was written since, it stays this once
    file, clean                 nowhere: it is on disk
    file, dirty                 it stays in the page cache, unmapped
    shared memory               to swap; without swap it stays in the page cache, unmapped
    shared memory, not written  nowhere

Kernel:
    mm/madvise.c madvise_cold_or_pageout_pte_range(), mm/vmscan.c reclaim_pages(), since 5.4; mm/madvise.c
    madvise_willneed(), swapin_walk_pmd_entry(). Measured on 6.18.
"""

from __future__ import annotations

from itertools import groupby

from dontneed.model.memory.page_cache import REGULAR
from dontneed.model.memory.swap_in import cache_slot
from dontneed.model.paging.folios import heads_of, shared_folios, split_cut_folios, split_for_good
from dontneed.model.paging.zap import unmap_anonymous
from dontneed.model.space.entries import ANON, DIRTY, FILE, HUGE, KIND, LEAF_PAGES, MAPPED, SHMEM, SWAP, YOUNG
from dontneed.model.space.vma import HUGETLB, PFNMAP

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import TypeVar

    from dontneed.model.memory.frames import Frames
    from dontneed.model.memory.page_cache import File
    from dontneed.model.space.leaf import Run
    from dontneed.model.space.mm import Mm
    from dontneed.model.space.vma import Vma
    from dontneed.model.system import System

    _Key = TypeVar("_Key")


def make_cold(mm: Mm, vma: Vma, first: int, last: int) -> None:
    """MADV_COLD: forget that pages were used, so that they are the next to be reclaimed; nothing goes."""
    split_cut_folios(mm, vma, first, last)
    for start, end, _, frame in _mapped_once(mm, vma, first, last):
        mm.table.recode(start, end, YOUNG, kinds=MAPPED)
        if vma.file is not None:
            vma.file.referenced.difference_update(range(frame, frame + end - start))
            vma.file.active.difference_update(range(frame, frame + end - start))


def page_out(mm: Mm, vma: Vma, first: int, last: int) -> None:
    """MADV_PAGEOUT: reclaim pages now, as far as that loses nothing."""
    mm.note_peak()
    split_cut_folios(mm, vma, first, last)
    runs = list(_mapped_once(mm, vma, first, last))
    _dirty_written_folios(mm, runs)
    for run in runs:
        if run[2] & KIND == ANON:
            _page_out_anonymous(mm, run)
        elif vma.file is not None:
            _page_out_cached(mm, vma, vma.file, run)


def will_need(mm: Mm, vma: Vma, first: int, last: int) -> None:
    """MADV_WILLNEED: bring pages into the swap cache or the page cache; entries stay as they are."""
    file = vma.file
    if vma.flags & (HUGETLB | PFNMAP):
        return
    if file is None:
        for start, end, code, slot in mm.table.runs(first, last):
            if code & KIND == SWAP:
                _cache_slots(mm.system, range(slot, slot + end - start))
        return
    if file.nature != REGULAR:
        return
    pages = range(vma.file_page(first), min(vma.file_page(last - 1) + 1, file.pages))
    if not file.in_memory:
        for page in pages:
            file.frame(page)
    elif mm.system.behaviour.willneed_anonymous:
        _cache_slots(mm.system, [file.swapped[page] for page in pages if page in file.swapped])


def _cache_slots(system: System, slots: Iterable[int]) -> None:
    for slot in slots:
        cache_slot(system, slot)


# What is mapped once


def _mapped_once(mm: Mm, vma: Vma, first: int, last: int) -> Iterator[Run]:
    """The runs of pages whose frames no other entry maps; of a huge page all are, or none is taken."""
    frames = mm.system.frames
    shared = shared_folios(mm, first, last)
    for run in mm.table.runs(first, last):
        start, end, code, frame = run
        kind = code & KIND
        if kind in (FILE, SHMEM):
            if vma.file is not None and vma.file.nature == REGULAR:  # others are never reclaimed
                yield from _mapped_once_of_file(frames, run)
        elif kind == ANON and code & HUGE:
            if frame & -LEAF_PAGES not in shared:
                yield run
        elif kind == ANON and (shared or frames.is_shared(frame, end - start)):
            yield from _parts(run, lambda frame: frames.map_count(frame) == 1 and frame & -LEAF_PAGES not in shared)
        elif kind == ANON:
            yield run


def _mapped_once_of_file(frames: Frames, run: Run) -> Iterator[Run]:
    start, end, code, first = run
    if not code & HUGE:
        yield from _parts(run, lambda frame: frames.cached_map_count(frame) == 1)
    elif all(frames.cached_map_count(frame) == 1 for frame in range(first, first + end - start)):
        yield run


def _parts(run: Run, is_wanted: Callable[[int], bool]) -> Iterator[Run]:
    """The parts of a run whose frames are wanted."""
    for wanted, part in _cut(run, is_wanted):
        if wanted:
            yield part


def _cut(run: Run, key: Callable[[int], _Key]) -> Iterator[tuple[_Key, Run]]:
    """A run in parts whose frames have the same key."""
    start, end, code, value = run
    for each, group in groupby(range(value, value + end - start), key):
        pages = len(list(group))
        yield each, (start, start + pages, code, value)
        start += pages
        value += pages


# Anonymous pages


def _page_out_anonymous(mm: Mm, run: Run) -> None:
    frames = mm.system.frames
    start, end, code, frame = run
    if code & HUGE:
        mm.table.split_huge(start // LEAF_PAGES)
    usual = _swap_out if mm.system.swap.enabled else _stay
    if not frames.lazy:
        usual(mm, start, end, frame)
        return

    def fate(frame: int) -> Callable[[Mm, int, int, int], None]:
        if frame not in frames.lazy:
            return usual
        return _keep_once if code & DIRTY or frame in frames.dirty else _discard

    for act, (first, last, _, value) in list(_cut(run, fate)):
        act(mm, first, last, value)


def _dirty_written_folios(mm: Mm, runs: list[Run]) -> None:
    """One written page keeps all of a huge page that was lazily freed."""
    frames = mm.system.frames
    if not frames.lazy:
        return
    for start, end, code, frame in runs:
        if code & KIND == ANON and code & DIRTY:
            for head, _ in heads_of(frames, frame, end - start):
                if head in frames.lazy:
                    frames.dirty.update(range(head, head + LEAF_PAGES))


def _stay(mm: Mm, first: int, last: int, frame: int) -> None:
    """No swap: pages stay, but the attempt split them (split_folio_to_list() in shrink_folio_list())."""
    frames = mm.system.frames
    for head, _ in list(heads_of(frames, frame, last - first)):
        split_for_good(mm, first, last, head)


def _keep_once(mm: Mm, first: int, last: int, frame: int) -> None:
    """Lazily freed, and written since: they are ordinary again, and not looked at twice (folio_set_swapbacked())."""
    kept = range(frame, frame + last - first)
    mm.system.frames.lazy.difference_update(kept)
    mm.system.frames.dirty.update(kept)


def _discard(mm: Mm, first: int, last: int, frame: int) -> None:
    mm.table.clear(first, last)
    mm.resident[ANON] -= last - first
    unmap_anonymous(mm.system, frame, last - first)


def _swap_out(mm: Mm, first: int, last: int, frame: int) -> None:
    swap, frames = mm.system.swap, mm.system.frames
    pages = last - first
    if frames.is_exclusive(frame, pages) and not swap.cached_frames(frame, pages):
        slot = swap.allocate(pages)
        for offset in range(pages):
            swap.store(slot + offset, frames.load(frame + offset))
        mm.table.put(first, last, SWAP, slot)
    else:
        for offset in range(pages):
            mm.table.put(first + offset, first + offset + 1, SWAP, _swap_out_page(mm.system, frame + offset))
    frames.unmap(frame, pages)
    mm.resident[ANON] -= pages
    mm.resident[SWAP] += pages


def _swap_out_page(system: System, frame: int) -> int:
    """Write a frame to its slot in the swap cache, or to a fresh one; the slot, which one more entry names."""
    swap = system.swap
    exclusive = system.frames.is_exclusive(frame, 1)
    slot = swap.slot_of(frame)
    if slot is None:
        slot = swap.allocate(1)
        if not exclusive:
            swap.doubt(slot)
    else:
        swap.name_again(slot, exclusive=exclusive)
        swap.drop_from_cache(frame)
    swap.store(slot, system.frames.load(frame))
    return slot


# Pages of files


def _page_out_cached(mm: Mm, vma: Vma, file: File, run: Run) -> None:
    """Unmap pages of a file, and let them go where that loses nothing."""
    start, end, code, frame = run
    pages = end - start
    mm.table.clear(start, end)
    mm.resident[code & KIND] -= pages
    mm.system.frames.unmap_cached(frame, pages)
    if code & DIRTY:
        file.dirty.update(range(frame, frame + pages))
    for page in range(vma.file_page(start), vma.file_page(start) + pages):
        _reclaim(file, page)
    if code & HUGE:
        file.huge.discard(vma.file_page(start))


def _reclaim(file: File, page: int) -> None:
    """Let go of a page of the cache that nobody maps, if that loses nothing."""
    swap = file.system.swap
    frame = file.cache[page]
    if frame in file.dirty:
        if not (file.in_memory and swap.enabled):
            return
        file.swapped[page] = slot = swap.allocate(1)
        swap.store(slot, file.system.frames.load(frame))
    file.drop(page)
