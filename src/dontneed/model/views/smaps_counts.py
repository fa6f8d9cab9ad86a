"""What smaps counts of one mapping, by a walk over its entries in runs.

Proportional sizes are kept as the kernel keeps them: in bytes times 4096, each page divided by its mappers and rounded
down.

Kernel:
    fs/proc/task_mmu.c smap_gather_stats(), smaps_account(), smaps_pte_entry().
"""

from __future__ import annotations

from collections import Counter

from dontneed.model.space import vma as vm
from dontneed.model.space.entries import (
    ANON,
    DIRTY,
    FILE,
    HUGE,
    HUGETLB,
    KIND,
    MIGRATION,
    PFN,
    POISON,
    SHMEM,
    SWAP,
    YOUNG,
    ZERO,
)
from dontneed.model.space.mm import PAGE_SHIFT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    from dontneed.model.space.mm import Mm
    from dontneed.model.space.vma import Vma
    from dontneed.model.system import System

    _Run: TypeAlias = tuple[int, int, int]

_PAGE_BYTES = 1 << PAGE_SHIFT
_PSS_SHIFT = 12
_PROPORTIONAL = frozenset(("Pss", "Pss_Dirty", "SwapPss"))


class Counts:
    """The lines of smaps that a walk counts, by name; those that are missing are 0."""

    __slots__ = ("_bytes",)

    def __init__(self) -> None:
        self._bytes: Counter[str] = Counter()

    @property
    def all(self) -> frozenset[tuple[str, int]]:
        """Every line that something was counted in, with its sum."""
        return frozenset(self._bytes.items())

    def kib(self, line: str) -> int:
        """What is printed in a line, in KiB."""
        scaled = _PSS_SHIFT if line in _PROPORTIONAL else 0
        return self._bytes[line] >> scaled + 10

    def add(self, line: str, pages: int, *, sharers: int = 1) -> None:
        """Count pages in a line; in proportional ones each in part, if it has several sharers."""
        each = (_PAGE_BYTES << _PSS_SHIFT) // sharers if line in _PROPORTIONAL else _PAGE_BYTES
        self._bytes[line] += pages * each

    def add_present(self, pages: int, *, sharers: int, dirty: bool, referenced: bool) -> None:
        """Count pages that are mapped, alike in all of this."""
        self.add("Rss", pages)
        self.add("Pss", pages, sharers=sharers)
        if dirty:
            self.add("Pss_Dirty", pages, sharers=sharers)
        self.add(f"{'Shared' if sharers > 1 else 'Private'}_{'Dirty' if dirty else 'Clean'}", pages)
        if referenced:
            self.add("Referenced", pages)


def count_pages(mm: Mm, vma: Vma) -> Counts:
    """What smaps counts of a mapping."""
    counts = Counts()
    for first, last, code, value in mm.table.runs(vma.first, vma.last):
        count = _COUNTED_BY.get(code & KIND)
        if count is not None:
            count(counts, mm.system, vma, (code, value, last - first))
    if mm.system.behaviour.smaps_shared_swap:
        counts.add("Swap", _swapped_file_pages(mm, vma))
    return counts


# Runs of entries that are alike, by what kind they are of: their code, the first value, and how many


def _count_anonymous(counts: Counts, system: System, _: Vma, run: _Run) -> None:
    code, first, pages = run
    frames = system.frames
    counts.add("Anonymous", pages)
    if code & HUGE:
        counts.add("AnonHugePages", pages)
    dirty, referenced = bool(code & DIRTY), bool(code & YOUNG)
    if not (frames.lazy or frames.dirty or frames.is_shared(first, pages)):
        counts.add_present(pages, sharers=1, dirty=dirty, referenced=referenced)
        return
    alike = Counter(
        (frames.map_count(frame), dirty or frame in frames.dirty, frame in frames.lazy)
        for frame in range(first, first + pages)
    )
    for (sharers, is_dirty, is_lazy), number in alike.items():
        counts.add_present(number, sharers=sharers, dirty=is_dirty, referenced=referenced)
        if is_lazy and not is_dirty:
            counts.add("LazyFree", number)


def _count_cached(counts: Counts, system: System, vma: Vma, run: _Run) -> None:
    """Count pages of a file; that one is dirty or was used may be known to the page alone."""
    code, first, pages = run
    if code & HUGE:
        counts.add("ShmemPmdMapped" if code & KIND == SHMEM else "FilePmdMapped", pages)
    file = vma.file
    dirty_frames = file.dirty if file is not None and system.behaviour.smaps_dirty_by_page else ()
    used_frames = file.referenced if file is not None else ()
    mappers = system.frames.cached_map_count
    alike = Counter(
        (mappers(frame), bool(code & DIRTY) or frame in dirty_frames, bool(code & YOUNG) or frame in used_frames)
        for frame in range(first, first + pages)
    )
    for (sharers, dirty, referenced), number in alike.items():
        counts.add_present(number, sharers=sharers, dirty=dirty, referenced=referenced)


def _count_without_page(counts: Counts, system: System, _: Vma, run: _Run) -> None:
    """Count what is present and has no page structure that the kernel would count."""
    if system.behaviour.smaps_counts_zero_page:
        counts.add("Rss", run[2])


def _count_swapped(counts: Counts, system: System, _: Vma, run: _Run) -> None:
    slot, pages = run[1:]
    counts.add("Swap", pages)
    for sharers, alike in Counter(map(system.swap.entries, range(slot, slot + pages))).items():
        counts.add("SwapPss", alike, sharers=sharers)


def _count_hugetlb(counts: Counts, system: System, _: Vma, run: _Run) -> None:
    """Count pages of the hugetlb pool, which are in no other line."""
    frame, pages = run[1:]
    frames = system.frames
    sharers = frames.cached_map_count(frame) or frames.map_count(frame)
    counts.add("Shared_Hugetlb" if sharers > 1 else "Private_Hugetlb", pages)


def _count_moving(counts: Counts, system: System, _: Vma, run: _Run) -> None:
    """Count a page that is being moved: it is as good as there."""
    if system.behaviour.smaps_swap_exact:
        counts.add_present(run[2], sharers=1, dirty=False, referenced=False)
    else:
        counts.add("Swap", run[2])


def _count_failed(counts: Counts, system: System, _: Vma, run: _Run) -> None:
    if not system.behaviour.smaps_swap_exact:
        counts.add("Swap", run[2])


_COUNTED_BY = {
    ANON: _count_anonymous,
    FILE: _count_cached,
    SHMEM: _count_cached,
    ZERO: _count_without_page,
    PFN: _count_without_page,
    SWAP: _count_swapped,
    HUGETLB: _count_hugetlb,
    MIGRATION: _count_moving,
    POISON: _count_failed,
}


def _swapped_file_pages(mm: Mm, vma: Vma) -> int:
    """Pages of shared memory in swap that a mapping would fault in: no entry of this process tells of them.

    Unless there may be private copies, the entries are not even looked at (smap_gather_stats).
    """
    file = vma.file
    if file is None or not file.swapped:
        return 0
    pages = [vma.first + page - vma.offset for page in file.swapped]
    inside = [page for page in pages if vma.first <= page < vma.last]
    if vma.flags & vm.SHARED or not vma.flags & vm.WRITE:
        return len(inside)
    return sum(not mm.table.get(page)[0] for page in inside)
