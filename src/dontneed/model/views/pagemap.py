"""/proc/PID/pagemap and /proc/kpageflags of the model: what the kernel says of a page, and of a frame, in 64 bits.

Kernel:
    fs/proc/task_mmu.c pagemap_pmd_range(), pte_to_pagemap_entry(); fs/proc/page.c stable_page_flags(). In 2.6.32 every
    entry bears the size of a page in bits 55 to 60, those of holes too, but for empty entries of a table that is there.
"""

from __future__ import annotations

from array import array

from dontneed.abi import kpageflags as frame_flags
from dontneed.abi import pagemap as abi
from dontneed.model.paging.hugetlb import is_file_frame
from dontneed.model.space import vma as vm
from dontneed.model.space.entries import (
    ANON,
    FILE,
    GUARD,
    HUGE,
    HUGETLB,
    KIND,
    LEAF_PAGES,
    MIGRATION,
    NONLINEAR,
    POISON,
    PRESENT,
    SHMEM,
    ZERO,
)
from dontneed.model.space.mm import PAGE_SHIFT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dontneed.model.memory.page_cache import File
    from dontneed.model.space.mm import Mm
    from dontneed.model.system import System
    from dontneed.model.versions import Behaviour

_PAGE_SHIFT_BITS = PAGE_SHIFT << 55
_SWAP_TYPE_BITS = 5
_MIGRATION_TYPE = 30
_MARKER_TYPE = 31
_GUARD_MARKER, _POISON_MARKER = 1 << 2, 1 << 1

_TOLD_BY_ENTRY = frozenset((ANON, HUGETLB, ZERO))
"""Kinds of entries whose frames are of no file."""
_ANONYMOUS = frame_flags.ANON | frame_flags.LRU | frame_flags.SWAPBACKED


def pagemap(mm: Mm, first: int, last: int) -> bytes:
    """The entries of pages `[first, last)`, as root reads them: with frame numbers.

    Kernel:
        exclusive since 4.2, file 3.5, guard 6.15.
    """
    behaviour = mm.system.behaviour
    nothing = _PAGE_SHIFT_BITS if behaviour.pagemap_page_shift else 0
    entries = array("Q", [nothing]) * (last - first)
    for vma in mm.vmas.within(first, last):
        if vma.flags & vm.HUGETLB and not behaviour.pagemap_hugetlb:
            continue
        start, end = max(vma.first, first), min(vma.last, last)
        if nothing:
            _clear_tables(entries, mm, start - first, end - first, first)
        for begin, stop, code, value in mm.table.runs(start, end):
            entries[begin - first : stop - first] = array("Q", _entries(mm, code, value, stop - begin))
    return entries.tobytes()


def _clear_tables(entries: array[int], mm: Mm, start: int, end: int, base: int) -> None:
    """Leave nothing in those entries, counted from page `base` on, that a page table serves."""
    page = start + base
    while page < end + base:
        stop = min((page // LEAF_PAGES + 1) * LEAF_PAGES, end + base)
        if page // LEAF_PAGES in mm.table.leaves:
            entries[page - base : stop - base] = array("Q", [0]) * (stop - page)
        page = stop


def _entries(mm: Mm, code: int, value: int, pages: int) -> Iterable[int]:
    """The entries of a run of pages."""
    behaviour = mm.system.behaviour
    kind = code & KIND
    always = _PAGE_SHIFT_BITS if behaviour.pagemap_page_shift else 0
    if kind not in PRESENT:
        swapped = _not_present(behaviour, kind, value) | always
        step = 0 if kind in (GUARD, POISON) else 1 << _SWAP_TYPE_BITS
        return [swapped + step * page for page in range(pages)] if kind != NONLINEAR else [always] * pages
    always |= abi.PRESENT
    if behaviour.pagemap_file and _is_of_file(mm, code, value):
        always |= abi.FILE
    if kind == ZERO:
        return [always | value + (page if code & HUGE else 0) for page in range(pages)]
    frames = range(always | value, (always | value) + pages)
    if not behaviour.pagemap_exclusive:
        return frames
    mappers = _mappers(mm, kind, range(value, value + pages))
    if code & HUGE and not isinstance(mappers, int):
        mappers = next(iter(mappers))  # the kernel asks for the first, and says it of all
    if isinstance(mappers, int):
        alone = abi.EXCLUSIVE if mappers == 1 else 0
        return range(frames.start | alone, (frames.start | alone) + pages)
    return [frame | (abi.EXCLUSIVE if each == 1 else 0) for frame, each in zip(frames, mappers, strict=True)]


def _is_of_file(mm: Mm, code: int, frame: int) -> bool:
    """Whether the frame is of a file or of shared memory."""
    kind = code & KIND
    if kind == ZERO:
        return mm.system.behaviour.pagemap_huge_zero_file and bool(code & HUGE)
    return kind in (FILE, SHMEM) or (kind == HUGETLB and is_file_frame(mm.system, frame))


def _not_present(behaviour: Behaviour, kind: int, value: int) -> int:
    """An entry that is neither none nor present: the type of swap, and where in it."""
    if kind == GUARD:
        guard = abi.GUARD if behaviour.pagemap_guard else 0
        return abi.SWAP | guard | _MARKER_TYPE | _GUARD_MARKER << _SWAP_TYPE_BITS
    if kind == POISON:
        return abi.SWAP | _MARKER_TYPE | _POISON_MARKER << _SWAP_TYPE_BITS
    swap_type = _MIGRATION_TYPE if kind == MIGRATION else 0
    return abi.SWAP | swap_type | value << _SWAP_TYPE_BITS


def _mappers(mm: Mm, kind: int, frames: range) -> int | Iterable[int]:
    """How many entries map each frame, or, as one number, all of them; 0 without page structures."""
    known = mm.system.frames
    if kind == ANON or (kind == HUGETLB and not is_file_frame(mm.system, frames.start)):
        return map(known.map_count, frames) if known.is_shared(frames.start, len(frames)) else 1
    return map(known.cached_map_count, frames) if kind in (FILE, SHMEM, HUGETLB) else 0


# Frames


def kpageflags(system: System, spaces: Iterable[Mm], files: Iterable[File], frames: Sequence[int]) -> list[int]:
    """What /proc/kpageflags says of frames.

    Args:
        system: the machine.
        spaces: every address space of it.
        files: every file of it.
        frames: their numbers.
    Kernel:
        since 2.6.25; huge pages are told since 3.4, the zero page 4.0.
    """
    wanted = set(frames)
    said = {frame: _unmapped_flags(system, frame) for frame in wanted}
    for file in files:
        for frame in wanted.intersection(file.cache.values()):
            said[frame] = _cached_flags(file, frame)
    for mm in spaces:
        for first, last, code, value in mm.table.runs(0, mm.top):
            if code & KIND in _TOLD_BY_ENTRY:
                for frame in wanted.intersection(range(value, value + last - first)):
                    said[frame] = _mapped_flags(system, code, frame)
    known = (1 << system.behaviour.frame_flag_bits) - 1
    return [said[frame] & known for frame in frames]


def _unmapped_flags(system: System, frame: int) -> int:
    """Of a frame that no entry maps: free, unless it is a part of a huge page, or in the swap cache."""
    is_part = system.frames.folio_of(frame) is not None  # of a page that is mapped as a whole, for the kernel
    flags = _part_flags(frame) | frame_flags.MMAP if is_part else 0
    if system.swap.slot_of(frame) is not None:
        flags |= frame_flags.SWAPCACHE
    return flags | _ANONYMOUS if flags else frame_flags.BUDDY


def _cached_flags(file: File, frame: int) -> int:
    """Of a frame of the page cache."""
    flags = frame_flags.LRU
    if file.system.frames.cached_map_count(frame):
        flags |= frame_flags.MMAP
    if frame in file.dirty:
        flags |= frame_flags.DIRTY
    if frame in file.referenced:
        flags |= frame_flags.REFERENCED
    return flags | (frame_flags.SWAPBACKED if file.in_memory else 0)


def _mapped_flags(system: System, code: int, frame: int) -> int:
    """Of a frame that an entry maps, and that is of no file."""
    kind = code & KIND
    if kind == ZERO:
        return frame_flags.ZERO_PAGE | (_part_flags(frame) if code & HUGE else 0)
    if kind == HUGETLB:
        return frame_flags.MMAP | frame_flags.HUGE | _place_flag(frame)
    flags = _ANONYMOUS | frame_flags.MMAP
    if frame in system.frames.lazy:
        flags &= ~frame_flags.SWAPBACKED
    if frame in system.frames.dirty:
        flags |= frame_flags.DIRTY
    if system.frames.folio_of(frame) is not None:
        flags |= _part_flags(frame)
    return flags | (frame_flags.SWAPCACHE if system.swap.slot_of(frame) is not None else 0)


def _part_flags(frame: int) -> int:
    """Of a part of a transparent huge page."""
    return frame_flags.THP | _place_flag(frame)


def _place_flag(frame: int) -> int:
    return frame_flags.COMPOUND_TAIL if frame % LEAF_PAGES else frame_flags.COMPOUND_HEAD
