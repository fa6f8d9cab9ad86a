"""Huge pages of the hugetlb pool: set aside by the administrator, reserved when mapped, in no RSS.

A mapping reserves what it may need when it is made, so that its faults always find a page: a private one for its
process alone (a child of a fork has no claim), a shared one for the file, which holds the pages. What finds neither a
reservation nor a page that is not reserved is answered by SIGBUS. There is no zero page: a read takes a page too.

An entry maps 512 pages, never a part of them; frames are of a private copy unless they are mapped from a file's cache.

Kernel:
    mm/hugetlb.c: hugetlb_fault(), hugetlb_no_page(), hugetlb_wp(), __unmap_hugepage_range(), hugetlb_reserve_pages(),
    copy_hugetlb_page_range(); fs/hugetlbfs/inode.c. Measured on 6.18.
"""

from __future__ import annotations

from dontneed.model.memory.page_cache import File
from dontneed.model.space.anon_vma import prepare_anon_vma
from dontneed.model.space.entries import DIRTY, HUGE, HUGETLB, LEAF_PAGES, WRITE, YOUNG
from dontneed.model.space.vma import HUGETLB as VM_HUGETLB
from dontneed.model.space.vma import MAY_SHARE, NO_RESERVE
from dontneed.model.space.vma import WRITE as VM_WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from dontneed.model.space.leaf import Run
    from dontneed.model.space.mm import Mm
    from dontneed.model.space.vma import Vma
    from dontneed.model.system import System

SIGBUS = 7

UNNAMED = "/anon_hugepage (deleted)"
"""What /proc/PID/maps calls memory mapped with MAP_HUGETLB: a file that no descriptor leads to."""

_MAPPED = HUGETLB | HUGE | YOUNG


def new_file(system: System, pages: int, *, name: str = UNNAMED) -> File:
    """A file of hugetlbfs without any page, such as every MAP_HUGETLB makes; with a name, it outlives its mappings."""
    return File(system, name, pages, kind=HUGETLB)


# Mapping and unmapping


def reserve(mm: Mm, file: File | None, first: int, last: int, offset: int, flags: int) -> bool:
    """Reserve the pages of a mapping that is to be made; False: it is of hugetlb memory, and there are not enough.

    A file that is mapped writable beyond its end, even privately, grows to that length.

    Args:
        mm: whose.
        file: that is mapped.
        first: where the mapping starts.
        last: where it ends.
        offset: from which page of the file on.
        flags: of the mapping.
    """
    if file is None or not flags & VM_HUGETLB:
        return True
    if not flags & NO_RESERVE and not _reserve(mm, file, first, last, offset, shared=bool(flags & MAY_SHARE)):
        return False
    if flags & VM_WRITE:
        file.pages = max(file.pages, offset + last - first)
    return True


def _reserve(mm: Mm, file: File, first: int, last: int, offset: int, *, shared: bool) -> bool:
    system = mm.system
    if shared:
        of_file = range(offset, offset + last - first, LEAF_PAGES)
        missing = [page for page in of_file if page not in file.cache and page not in file.reserved]
        if len(missing) > unreserved(system):
            return False
        file.reserved.update(missing)
        system.huge_reserved += len(missing)
        return True
    slots = range(first // LEAF_PAGES, last // LEAF_PAGES)
    if len(slots) > unreserved(system):
        return False
    mm.hugetlb_reservations.update(dict.fromkeys(slots, True))
    system.huge_reserved += len(slots)
    return True


def unreserved(system: System) -> int:
    """How many free pages of the pool nobody has reserved."""
    return system.huge_pool - system.huge_reserved


def refuses_split(mm: Mm, first: int, last: int) -> bool:
    """Whether a mapping cannot be split at an end of a range (EINVAL): hugetlb memory is split between huge pages only.

    What can be split at `first` is, even if that is all.
    """
    for page in (first, last):
        vma = mm.vmas.find(page)
        if vma is not None and vma.flags & VM_HUGETLB and vma.first < page and page % LEAF_PAGES:
            if page == last:
                mm.vmas.split(first)
            return True
    return False


def unmap(mm: Mm, vma: Vma, first: int, last: int) -> list[Run]:
    """Take the pages of a range away, as a zap does; the entries that went. A hole takes private copies too.

    Args:
        mm: whose.
        vma: the mapping.
        first: where the range starts.
        last: where it ends; both between huge pages.
    """
    frames = mm.system.frames
    gone = []
    for start, end, code, frame in mm.table.runs(first, last):
        is_of_file = is_file_frame(mm.system, frame)
        gone.append((start, end, code, frame))
        mm.table.clear(start, end)
        mm.hugetlb_pages -= LEAF_PAGES
        if is_of_file:
            frames.unmap_cached(frame, LEAF_PAGES)
        elif frames.unmap_pooled(frame):
            mm.system.huge_pool += 1
            mm.system.hugetlb_sharers.pop(frame, None)
            _restore(mm, vma, start // LEAF_PAGES)
    return gone


def _restore(mm: Mm, vma: Vma, slot: int) -> None:
    """Reserve a page again that went back to the pool, so that nobody takes it from its mapping."""
    if (
        mm.system.behaviour.hugetlb_restores
        and mm.hugetlb_reservations.get(slot) is False
        and not vma.flags & MAY_SHARE
    ):
        mm.hugetlb_reservations[slot] = True
        mm.system.huge_reserved += 1


def close(mm: Mm, vmas: Iterable[Vma]) -> None:
    """Give up the reservations of mappings that are no more, and the files that nothing leads to."""
    for vma in vmas:
        if not vma.flags & VM_HUGETLB:
            continue
        if not vma.flags & MAY_SHARE:
            for slot in range(vma.first // LEAF_PAGES, vma.last // LEAF_PAGES):
                mm.system.huge_reserved -= mm.hugetlb_reservations.pop(slot, False)
        file = vma.file
        if file is not None and file.name == UNNAMED and not _is_mapped(file):
            _forget(file, 0, file.pages)
            mm.system.huge_reserved -= len(file.reserved)
            file.reserved.clear()


def punch(file: File, first: int, last: int) -> None:
    """Punch a hole: whole huge pages go back to the pool, of others the part is filled with zeros."""
    from dontneed.model.paging.zap import unmap_file_range  # the zap lets go of huge pages, and a hole zaps

    start, end = -(-first // LEAF_PAGES) * LEAF_PAGES, last // LEAF_PAGES * LEAF_PAGES
    for page in (*range(first, min(start, last)), *range(max(end, first), last)):
        if page in file.cache:
            file.system.frames.store(file.cache[page], 1, 0)
    if start < end:
        unmap_file_range(file, start, end)
        _forget(file, start, end)


def _is_mapped(file: File) -> bool:
    return any(vma.file is file for mm in file.mappers for vma in mm.vmas)


def _forget(file: File, first: int, last: int) -> None:
    """Give the pages of a range of a file, that nobody maps, back to the pool."""
    for page in [each for each in file.cache if first <= each < last]:
        frame = file.cache.pop(page)
        file.dirty.discard(frame)
        if not frame % LEAF_PAGES:
            file.system.frames.store(frame, LEAF_PAGES, 0)
            file.system.huge_pool += 1


def move(mm: Mm, first: int, last: int, to: int) -> None:
    """Let the reservations of a private mapping follow it to another place (mremap)."""
    moved = range(first // LEAF_PAGES, last // LEAF_PAGES)
    known = {slot: mm.hugetlb_reservations.pop(slot) for slot in moved if slot in mm.hugetlb_reservations}
    distance = (to - first) // LEAF_PAGES
    mm.hugetlb_reservations.update({slot + distance: unused for slot, unused in known.items()})


# Faults


def fault_in_hugetlb(mm: Mm, vma: Vma, first: int, last: int, *, write: bool) -> int:
    """Touch pages of hugetlb memory; 0, or SIGBUS if the pool has no page for one of them."""
    for page in range(first // LEAF_PAGES * LEAF_PAGES, last, LEAF_PAGES):
        code, frame = mm.table.get(page)
        if not code:
            served = _fault_in_slot(mm, vma, page, write=write)
        elif write and not code & WRITE:
            served = _write_protected(mm, vma, page, frame)
        else:
            mm.table.recode(page, page + LEAF_PAGES, 0, YOUNG | (DIRTY if write else 0))
            served = True
        if not served:
            mm.table.ensure_upper(page)
            return SIGBUS
    return 0


def _fault_in_slot(mm: Mm, vma: Vma, page: int, *, write: bool) -> bool:
    """hugetlb_no_page(): the page of the file, a fresh one for it, or one of this process alone."""
    file = vma.file
    index = vma.file_page(page)
    if file is None or index >= file.pages or page // LEAF_PAGES in mm.hugetlb_lost:
        return False
    shared = vma.flags & MAY_SHARE
    cached = file.cache.get(index)
    if cached is None and shared:
        cached = _add_to_file(mm.system, file, index)
        if cached is None:
            return False
    if cached is not None and (shared or not write):
        mm.minor_faults += 1
        mm.hugetlb_pages += LEAF_PAGES
        mm.system.frames.map_cached(cached, LEAF_PAGES)
        writable = WRITE if shared and vma.flags & VM_WRITE else 0
        mm.table.put(page, page + LEAF_PAGES, _MAPPED | writable | (DIRTY if write else 0), cached)
        return True
    return _map_private(mm, vma, page, cached, write=write)


def _map_private(mm: Mm, vma: Vma, page: int, source: int | None, *, write: bool) -> bool:
    """Map a page of this process alone, with what `source` holds; the table has none, or one that went before."""
    prepare_anon_vma(mm, vma)
    slot = page // LEAF_PAGES
    reserved = mm.hugetlb_reservations.get(slot, False)
    frame = _allocate(mm.system, reserved=reserved)
    if frame is None:
        return False
    if reserved:
        mm.hugetlb_reservations[slot] = False
    if source is not None:
        mm.system.frames.copy(source, frame, LEAF_PAGES)
    mm.minor_faults += 1
    mm.hugetlb_pages += LEAF_PAGES
    mm.table.put(page, page + LEAF_PAGES, _MAPPED | (WRITE | DIRTY if write else 0), frame)
    return True


def _add_to_file(system: System, file: File, index: int) -> int | None:
    """Give a file a fresh page."""
    frame = _allocate(system, reserved=index in file.reserved)
    if frame is not None:
        file.reserved.discard(index)
        file.cache.update(zip(range(index, index + LEAF_PAGES), range(frame, frame + LEAF_PAGES), strict=True))
    return frame


def _allocate(system: System, *, reserved: bool) -> int | None:
    """Take a page from the pool: one that is reserved for the taker, or one that nobody has reserved."""
    if reserved:
        system.huge_reserved -= 1
    elif unreserved(system) <= 0:
        return None
    system.huge_pool -= 1
    return system.frames.allocate_pooled()


def _write_protected(mm: Mm, vma: Vma, page: int, frame: int) -> bool:
    """hugetlb_wp(): leave to write what is this process's alone, or shared by its file; else a copy.

    If there is no page for a copy, a process that reserved the page takes it from those that it was shared with by a
    fork: these find nothing there then.
    """
    frames = mm.system.frames
    is_of_file = is_file_frame(mm.system, frame)
    if not vma.flags & MAY_SHARE and (is_of_file or frames.map_count(frame) > 1):
        if _copy(mm, vma, page, frame):
            return True
        if is_of_file or page // LEAF_PAGES not in mm.hugetlb_reservations:
            return False
        _take_from_sharers(mm, frame)
    mm.minor_faults += 1
    mm.table.recode(page, page + LEAF_PAGES, 0, WRITE | DIRTY | YOUNG)
    return True


def _copy(mm: Mm, vma: Vma, page: int, frame: int) -> bool:
    if not _map_private(mm, vma, page, frame, write=True):
        return False
    mm.hugetlb_pages -= LEAF_PAGES
    if is_file_frame(mm.system, frame):
        mm.system.frames.unmap_cached(frame, LEAF_PAGES)
    elif mm.system.frames.unmap_pooled(frame):
        mm.system.huge_pool += 1
    return True


def _take_from_sharers(owner: Mm, frame: int) -> None:
    """Take a page away from those that a fork gave it to (unmap_ref_private)."""
    for mm, page in owner.system.hugetlb_sharers.pop(frame, ()):
        if mm is not owner and mm.table.get(page)[1] == frame:
            mm.table.clear(page, page + LEAF_PAGES)
            mm.hugetlb_pages -= LEAF_PAGES
            mm.hugetlb_lost.add(page // LEAF_PAGES)
            mm.system.frames.unmap_pooled(frame)


# What others ask


def is_file_frame(system: System, frame: int) -> bool:
    """Whether a frame that a hugetlb entry maps is of a file, not a private copy."""
    return system.frames.cached_map_count(frame) > 0


def share(child: Mm, page: int, frame: int) -> None:
    """Let a child map what its parent maps at `page`; the entry is copied by the caller."""
    child.hugetlb_pages += LEAF_PAGES
    if is_file_frame(child.system, frame):
        child.system.frames.map_cached(frame, LEAF_PAGES)
    else:
        child.system.frames.share(frame, LEAF_PAGES)
        child.system.hugetlb_sharers.setdefault(frame, []).append((child, page))
