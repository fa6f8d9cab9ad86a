"""Page faults: what a touch finds, and what the kernel puts there.

Touches come in runs, for a bulk of untouched pages takes one step; what must be done page by page (files, frames that
are shared) is.

Kernel:
    mm/memory.c: do_anonymous_page(), do_read_fault(), do_cow_fault(), do_shared_fault(), do_wp_page(), do_swap_page();
    the zero page is mapped at a read fault in 2.6.32 and since.
"""

from __future__ import annotations

from dontneed.model.memory.frames import KERNEL_FRAME, ZERO_FRAME
from dontneed.model.memory.page_cache import RING
from dontneed.model.memory.swap_in import claim_for_writing, swap_in
from dontneed.model.paging import huge
from dontneed.model.paging.hugetlb import fault_in_hugetlb
from dontneed.model.paging.zap import unmap_anonymous
from dontneed.model.space.anon_vma import prepare_anon_vma
from dontneed.model.space.entries import (
    ANON,
    DIRTY,
    FILE,
    GUARD,
    HUGE,
    KIND,
    LEAF_PAGES,
    NONE,
    NONLINEAR,
    PFN,
    POISON,
    SHMEM,
    SWAP,
    WRITE,
    YOUNG,
    ZERO,
)
from dontneed.model.space.vma import ACCESS, GROWS_DOWN, PFNMAP, SHARED, SPECIAL
from dontneed.model.space.vma import HUGETLB as VM_HUGETLB
from dontneed.model.space.vma import WRITE as VM_WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.model.space.mm import Mm
    from dontneed.model.space.vma import Vma

SIGBUS = 7
SIGSEGV = 11

STACK_LIMIT_PAGES = 2048
"""RLIMIT_STACK, 8 MiB: how far a stack grows down."""

_USED = DIRTY | YOUNG
_FRESH = ANON | WRITE | DIRTY | YOUNG
_WRITABLE_PLAIN = VM_WRITE | VM_HUGETLB | SPECIAL


def touch(mm: Mm, first: int, last: int, *, write: bool) -> int:
    """Touch pages `[first, last)` in ascending order, until one cannot be.

    Returns:
        0, or the number of the signal that the first page that cannot be touched raises; pages before it were.
    """
    page = first
    while page < last:
        vma = mm.vmas.find(page) or _grown_stack(mm, page)
        if vma is None or not may_access(vma, write=write):
            return SIGSEGV
        end = min(last, vma.last)
        if signal := fault_in(mm, vma, page, end, write=write):
            return signal
        page = end
    return 0


def may_access(vma: Vma, *, write: bool) -> bool:
    """Whether the protection of a mapping lets a process touch it (access_error() of x86)."""
    return bool(vma.flags & (VM_WRITE if write else ACCESS))


def fault_in(mm: Mm, vma: Vma, first: int, last: int, *, write: bool) -> int:
    """Bring in pages `[first, last)` of one mapping, whatever its protection says (handle_mm_fault).

    Returns:
        0, or the signal of the first page that cannot be had.
    """
    if vma.flags & VM_HUGETLB:
        return fault_in_hugetlb(mm, vma, first, last, write=write)
    for start, end, code, value in mm.table.segments(first, last):
        signal = 0
        if code:
            signal = _touch_entries(mm, vma, start, end, code, value, write=write)
        elif vma.is_anonymous:
            _fill_with_zeros(mm, vma, start, end, write=write)
        else:
            signal = _fill_from_file(mm, vma, start, end, write=write)
        if signal:
            return signal
    return 0


def get_pages(mm: Mm, vma: Vma, first: int, last: int, *, write: bool) -> int:
    """Bring in pages for the kernel's own use (faultin_page_range, populate_vma_page_range).

    It touches nothing itself: of a page that could be written already it is the frame that is noted to be dirty, not
    the entry.

    Returns:
        0, or the signal that a process would have got.
    """
    if not write or vma.flags & VM_HUGETLB:
        return fault_in(mm, vma, first, last, write=write)
    for start, end, code, value in mm.table.segments(first, last):
        if not code & WRITE or code & HUGE:
            if signal := fault_in(mm, vma, start, end, write=True):
                return signal
        elif not code & DIRTY:
            if code & KIND == ANON:
                mm.system.frames.make_dirty(value, end - start)
            elif vma.file is not None:
                vma.file.dirty.update(range(value, value + end - start))
    return 0


def _grown_stack(mm: Mm, page: int) -> Vma | None:
    """The stack that grows down to `page`, if the mapping above is one and there is room."""
    above = mm.vmas.find_from(page)
    if above is None or not above.flags & GROWS_DOWN or above.last - page > STACK_LIMIT_PAGES:
        return None
    below = mm.vmas.before(page)
    if below is not None and page - below.last < mm.system.behaviour.stack_gap_pages:
        return None
    mm.vmas.grow_down(above, page)
    return above


# Nothing there yet


def _fill_with_zeros(mm: Mm, vma: Vma, first: int, last: int, *, write: bool) -> None:
    """Fresh memory: huge pages where they are wanted and there is room for them, small ones elsewhere."""
    if not huge.is_wanted(mm, vma):
        fill_small(mm, vma, first, last, write=write)
        return
    for start, end, is_slot in huge.fillings(mm, vma, first, last):
        if is_slot:
            prepare_anon_vma(mm, vma)
            huge.fill_slot(mm, vma, start // LEAF_PAGES, write=write)
        else:
            fill_small(mm, vma, start, end, write=write)


def fill_small(mm: Mm, vma: Vma, first: int, last: int, *, write: bool) -> None:
    """Map small pages where nothing is (do_anonymous_page): fresh frames for writing, the zero page for reading."""
    pages = last - first
    mm.minor_faults += pages
    if write:
        if not vma.anon_vma:
            prepare_anon_vma(mm, vma)
        mm.table.put(first, last, _FRESH, mm.system.frames.allocate(pages))
        mm.resident[ANON] += pages
    else:
        mm.table.put(first, last, ZERO | YOUNG, ZERO_FRAME)


def fill_page(mm: Mm, vma: Vma, page: int) -> bool:
    """Write to one page of a mapping as most faults find it: what `touch` does, in a tenth of the time.

    Returns:
        Whether that was done: not unless the mapping is private memory that may be written and has held such pages, the
        page has a page table, and nothing is there. Otherwise nothing has changed.
    """
    if not vma.anon_vma or vma.file is not None or vma.flags & _WRITABLE_PLAIN != VM_WRITE:
        return False
    if not mm.table.put_into_gap(page, _FRESH, mm.system.frames.allocate):
        return False
    mm.minor_faults += 1
    mm.resident[ANON] += 1
    return True


def _fill_from_file(mm: Mm, vma: Vma, first: int, last: int, *, write: bool) -> int:
    """Pages of a file, one by one: each fault may map others around it."""
    for page in range(first, last):
        code, value = mm.table.get(page)
        is_copied = write and not vma.flags & SHARED
        if code:
            signal = _touch_entries(mm, vma, page, page + 1, code, value, write=write)
        elif not is_copied and huge.map_cached(mm, vma, page, write=write):
            signal = 0
        elif not write:
            signal = _read_file_page(mm, vma, page)
        elif is_copied:
            signal = _copy_file_page(mm, vma, page)
        else:
            signal = _write_shared_page(mm, vma, page)
        if signal:
            mm.table.ensure_upper(page)
            return signal
    return 0


def _read_file_page(mm: Mm, vma: Vma, page: int) -> int:
    """do_read_fault(): first what is cached around the page, then the page itself."""
    file = vma.file
    if file is None:
        return _read_kernels_page(mm, vma, page)
    if mm.system.behaviour.fault_around > 1 and not file.is_kernels:  # who answers for those has no map_pages()
        _map_around(mm, vma, page)
        if mm.table.get(page)[0] != NONE:
            mm.minor_faults += 1
            return 0
    index = vma.file_page(page)
    if index >= file.pages:
        return SIGBUS
    _count_file_fault(mm, vma, index)
    _map_cached(mm, page, file.frame(index), _read_code(vma))
    return 0


def _read_kernels_page(mm: Mm, vma: Vma, page: int) -> int:
    """A page of the kernel's own data; nothing answers for what is mapped by number."""
    if vma.flags & PFNMAP:
        return SIGBUS
    mm.minor_faults += 1
    mm.table.put(page, page + 1, PFN | YOUNG, KERNEL_FRAME)
    return 0


def _map_around(mm: Mm, vma: Vma, page: int) -> None:
    """do_fault_around(): a window that is aligned by address, within the mapping, the table and the file."""
    file = vma.file
    if file is None:
        return
    window = mm.system.behaviour.fault_around
    slot = page & -LEAF_PAGES
    first = max(page & -window, vma.first, slot)
    last = min(first + window, vma.last, slot + LEAF_PAGES, vma.first + file.pages - vma.offset)
    if file.folios and mm.system.behaviour.maps_whole_folio:
        first, last = huge.folio_at(vma, first)[0], huge.folio_at(vma, last - 1)[1]
    offset = vma.offset - vma.first
    code = _read_code(vma)  # as young as if it had been touched, on x86
    for start, end, there, _ in mm.table.segments(first, last):
        if there == NONE:
            for index, count, frame in file.cached_runs(start + offset, end + offset):
                _map_cached(mm, index - offset, frame, code, count)


def _write_shared_page(mm: Mm, vma: Vma, page: int) -> int:
    """do_shared_fault(): the page of the cache, writable and dirty."""
    file = vma.file
    index = vma.file_page(page)
    if file is None or index >= file.pages:
        return SIGBUS
    if file.nature == RING and index:
        return SIGBUS  # only its first page is for others to write
    _count_file_fault(mm, vma, index)
    frame = file.frame(index)
    file.dirty.add(frame)
    first, last = page, page + 1
    if file.folios and mm.system.behaviour.maps_whole_folio:
        whole = huge.folio_at(vma, page)
        if not mm.table.runs(*whole):
            first, last = whole
    for near in range(first, last):
        _map_cached(mm, near, file.cache[vma.file_page(near)], file.kind | WRITE | DIRTY | YOUNG)
    return 0


def _copy_file_page(mm: Mm, vma: Vma, page: int) -> int:
    """do_cow_fault(): a private copy at once. The anon_vma comes first, even if the page turns out not to be there."""
    prepare_anon_vma(mm, vma)
    file = vma.file
    index = vma.file_page(page)
    if file is None or index >= file.pages:
        return SIGBUS
    _count_file_fault(mm, vma, index)
    _map_copy(mm, page, file.frame(index))
    return 0


def _read_code(vma: Vma) -> int:
    """How a page of a file is mapped for reading: shared memory writable at once, since no one waits to hear of it."""
    assert vma.file is not None  # noqa: S101 - the callers have it
    kind = vma.file.kind
    return kind | YOUNG | (WRITE if kind == SHMEM and vma.flags & SHARED and vma.flags & VM_WRITE else 0)


def _count_file_fault(mm: Mm, vma: Vma, index: int) -> None:
    """A fault is major if the page comes from disk or swap."""
    file = vma.file
    if file is None or index in file.cache:
        is_major = False
    elif file.in_memory:
        is_major = index in file.swapped and file.swapped[index] not in mm.system.swap.cache
    else:
        is_major = True
    mm.major_faults += is_major
    mm.minor_faults += not is_major


def _map_cached(mm: Mm, page: int, frame: int, code: int, count: int = 1) -> None:
    mm.table.put(page, page + count, code, frame)
    mm.system.frames.map_cached(frame, count)
    mm.resident[code & KIND] += count


def _map_copy(mm: Mm, page: int, source: int) -> None:
    """Map a fresh copy of a frame."""
    frames = mm.system.frames
    frame = frames.allocate(1)
    frames.copy(source, frame, 1)
    mm.table.put(page, page + 1, _FRESH, frame)
    mm.resident[ANON] += 1


# Something there


def _touch_entries(mm: Mm, vma: Vma, first: int, last: int, code: int, value: int, *, write: bool) -> int:
    """Touch pages whose entries are alike."""
    kind = code & KIND
    if kind == GUARD:
        return SIGSEGV
    if kind == POISON:
        return SIGBUS
    if kind == SWAP:
        return swap_in(mm, vma, first, last, value, write=write)
    if kind == NONLINEAR:
        return _bring_named_pages(mm, vma, first, last, value, write=write)
    if code & HUGE:
        return _touch_huge(mm, vma, first, last, code, write=write)
    if not write:
        if not code & YOUNG:
            mm.table.recode(first, last, 0, YOUNG)
    elif code & WRITE:
        _note_write(mm, vma, first, last, code, value)
    else:
        _write_protected(mm, vma, first, last, code, value)
    return 0


def _note_write(mm: Mm, vma: Vma, first: int, last: int, code: int, value: int) -> None:
    """A write to pages mapped writable shows in their entries; shared memory hears of it when it is unmapped."""
    if code & _USED == _USED:
        return
    mm.table.recode(first, last, 0, _USED)
    if not code & DIRTY and code & KIND == FILE and vma.file is not None:
        vma.file.dirty.update(range(value, value + last - first))


def _touch_huge(mm: Mm, vma: Vma, first: int, last: int, code: int, *, write: bool) -> int:
    """Touch pages that one huge entry maps."""
    start, end = huge.pages_of(first // LEAF_PAGES)
    if not write:
        mm.table.recode(start, end, 0, YOUNG)
        return 0
    if code & WRITE:
        _note_write(mm, vma, start, end, code, mm.table.get(start)[1])
        return 0
    if not vma.flags & SHARED:
        prepare_anon_vma(mm, vma)
    if huge.write_protected(mm, vma, first, code):
        return 0
    return fault_in(mm, vma, first, last, write=True)


def _bring_named_pages(mm: Mm, vma: Vma, first: int, last: int, file_page: int, *, write: bool) -> int:
    """do_nonlinear_fault(): the page of the file that the entry names."""
    file = vma.file
    if file is None or file_page + last - first > file.pages:
        return SIGBUS
    code = file.kind | YOUNG | (WRITE | DIRTY if write else 0)
    for page, index in zip(range(first, last), range(file_page, file_page + last - first), strict=True):
        _count_file_fault(mm, vma, index)
        frame = file.frame(index)
        if write:
            file.dirty.add(frame)
        _map_cached(mm, page, frame, code)
    return 0


def _write_protected(mm: Mm, vma: Vma, first: int, last: int, code: int, value: int) -> None:
    """do_wp_page(): a write to what is mapped read-only is answered by a copy, or by leave to write."""
    kind = code & KIND
    if kind in (FILE, SHMEM) and vma.flags & SHARED:
        mm.minor_faults += last - first
        if vma.file is not None:
            vma.file.dirty.update(range(value, value + last - first))
        mm.table.recode(first, last, 0, WRITE | _USED)
        return
    mm.minor_faults += last - first
    prepare_anon_vma(mm, vma)
    if kind == ANON:
        reuse_or_copy(mm, first, last, value)
    elif kind == ZERO:
        mm.table.put(first, last, _FRESH, mm.system.frames.allocate(last - first))
        mm.resident[ANON] += last - first
    else:
        for offset in range(last - first):
            mm.resident[kind] -= 1
            _map_copy(mm, first + offset, value + offset)
            mm.system.frames.unmap_cached(value + offset, 1)


def reuse_or_copy(mm: Mm, first: int, last: int, value: int) -> None:
    """Leave to write frames that are ours alone; copies of those that are shared."""
    if mm.system.frames.is_exclusive(value, last - first):
        mm.table.recode(first, last, 0, WRITE | _USED)
        return
    for page, frame in zip(range(first, last), range(value, value + last - first), strict=True):
        held = mm.system.behaviour.counts_references and mm.system.frames.is_waiting(frame)
        if not held and huge.may_reuse_part(mm, page, frame) and claim_for_writing(mm.system, frame):
            mm.table.recode(page, page + 1, 0, WRITE | _USED)
        else:
            mm.resident[ANON] -= 1
            _map_copy(mm, page, frame)
            unmap_anonymous(mm.system, frame, 1)
