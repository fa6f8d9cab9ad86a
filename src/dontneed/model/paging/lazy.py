"""MADV_FREE: pages that may go at any time, until they are written again.

The entry stays, clean and old, and the frame is marked. A write makes the entry dirty, and that is what keeps the page;
a read does not. Reclaim (here: MADV_PAGEOUT) takes what is still clean. What is in swap is freed at once.

A page that is shared since a fork is marked too: the other process's entry is dirty, and keeps it. Not so one that may
be shared in a way that its mark could not undo: dirty itself, in the swap cache, or huge.

Kernel:
    mm/madvise.c madvise_free_pte_range(), mm/swap.c folio_mark_lazyfree(), since 4.5. The kernel marks in batches of 31
    a CPU, so smaps may show fewer LazyFree than there are here.
"""

from __future__ import annotations

from dontneed.model.memory.swap_in import free_swap
from dontneed.model.paging.folios import heads_of, shared_folios, split_cut_folios
from dontneed.model.paging.zap import release_slots
from dontneed.model.space.entries import ANON, DIRTY, KIND, POISON, SWAP, YOUNG

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.model.space.mm import Mm
    from dontneed.model.space.vma import Vma
    from dontneed.model.system import System

_ANONYMOUS = frozenset((ANON,))


def free_lazily(mm: Mm, vma: Vma, first: int, last: int) -> None:
    """MADV_FREE of pages `[first, last)` of an anonymous mapping."""
    mm.note_peak()
    split_cut_folios(mm, vma, first, last)
    shared = shared_folios(mm, first, last)
    for start, end, code, value in mm.table.runs(first, last):
        kind = code & KIND
        if kind == ANON:
            if not any(head in shared for head, _ in heads_of(mm.system.frames, value, end - start)):
                _mark(mm, start, end, value)
        elif kind == SWAP:
            mm.table.clear(start, end)
            mm.resident[SWAP] -= end - start
            release_slots(mm.system, value, end - start)
        elif kind == POISON:
            mm.table.clear(start, end)


def _mark(mm: Mm, first: int, last: int, frame: int) -> None:
    """Mark frames, and make their entries clean and old."""
    system = mm.system
    pages = last - first
    if not (system.swap.cache or system.frames.dirty):
        mm.table.recode(first, last, YOUNG | DIRTY, kinds=_ANONYMOUS)
        system.frames.lazy.update(range(frame, frame + pages))
        return
    cleaned = [each for each in range(frame, frame + pages) if _clean(system, each)]
    system.frames.lazy.update(cleaned)
    if len(cleaned) == pages:
        mm.table.recode(first, last, YOUNG | DIRTY, kinds=_ANONYMOUS)
        return
    for each in cleaned:
        page = first + each - frame
        mm.table.recode(page, page + 1, YOUNG | DIRTY, kinds=_ANONYMOUS)


def _clean(system: System, frame: int) -> bool:
    """Make a frame clean, and part it from its slot; whether that may be."""
    frames = system.frames
    if frame in frames.dirty or system.swap.slot_of(frame) is not None:
        if frames.map_count(frame) > 1 or not free_swap(system, frame):
            return False
        frames.dirty.discard(frame)
    return True
