"""mmap, munmap, mprotect, mlock: the calls that make, change and end mappings. Each returns an errno, or 0.

Kernel:
    mm/mmap.c, mm/vma.c, mm/mprotect.c, mm/mlock.c; munmap is the zap of MADV_DONTNEED, and then the tables go too.
"""

from __future__ import annotations

from dontneed.abi.errnos import EACCES, EINVAL, ENOMEM, EPERM
from dontneed.model.memory.page_cache import RING, SECRET
from dontneed.model.paging import hugetlb
from dontneed.model.paging.faults import get_pages
from dontneed.model.paging.folios import even_out
from dontneed.model.paging.huge import split_at
from dontneed.model.paging.zap import zap
from dontneed.model.space import vma as vm
from dontneed.model.space.entries import ANON, HUGE, HUGETLB, KIND, LEAF_PAGES, SHMEM, WRITE
from dontneed.model.space.vma import Vma

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.model.memory.page_cache import File
    from dontneed.model.space.mm import Mm

MMAP_TOP = 0x7_FFFF_7FFF
"""Below here mmap looks for room, from the top down: 128 MiB are left to the stack."""

_MAY = vm.MAY_READ | vm.MAY_WRITE | vm.MAY_EXEC
_CHARGED = vm.ACCOUNT | vm.WRITE | vm.HUGETLB | vm.SHARED | vm.NO_RESERVE


def mmap(
    mm: Mm,
    first: int,
    last: int,
    access: int,
    *,
    shared: bool = False,
    file: File | None = None,
    offset: int = 0,
    flags: int = 0,
    name: str = "",
) -> int:
    """mmap(2) with MAP_FIXED: map pages `[first, last)`, whatever was there.

    Args:
        mm: where.
        first: the first page.
        last: the page behind the last.
        access: READ, WRITE, EXEC.
        shared: MAP_SHARED; shared anonymous memory is a file in memory, made by the caller.
        file: what is mapped; None: private anonymous memory.
        offset: from which of its pages on.
        flags: further VM_* flags; with HUGETLB `last` is rounded up to a huge page.
        name: for a mapping without a file.
    """
    if flags & vm.HUGETLB:
        last, flags = -(-last // LEAF_PAGES) * LEAF_PAGES, flags | vm.DONT_EXPAND
        file = file or hugetlb.new_file(mm.system, last - first)
    if refused := _refused_place(mm, first, last, flags):
        return refused
    may = _possible_access(file, shared=shared)
    if access & vm.WRITE and not may & vm.MAY_WRITE:
        return EACCES
    if refused := munmap(mm, first, last):
        return refused
    if flags & vm.HUGETLB and offset % LEAF_PAGES:
        return EINVAL
    flags |= access | may | _flags_by_default(mm, access, may, flags, shared=shared) | _flags_by_nature(mm, file)
    if len(mm.vmas) > mm.system.max_map_count or not hugetlb.reserve(mm, file, first, last, offset, flags):
        return ENOMEM
    vma = Vma(first, last, flags, file, offset if file is not None else first, name)
    mm.vmas.insert(vma)
    if file is not None:
        file.mappers.add(mm)
    vma = mm.vmas.merge(vma)
    if vma.flags & vm.LOCKED:
        populate(mm, first, last)
    return 0


def find_gap(mm: Mm, pages: int, *, align: int = 1) -> int:
    """The highest place below `MMAP_TOP` where nothing is mapped; where the first of so many pages would lie, or 0.

    Args:
        mm: where.
        pages: how many are wanted.
        align: a power of two that the first page is a multiple of.
    """
    top = MMAP_TOP
    while True:
        below = mm.vmas.before(top)
        first = (top - pages) & -align
        if first <= 0:
            return 0
        if below is None or below.last <= first:
            return first
        top = min(top, below.first)


def _refused_place(mm: Mm, first: int, last: int, flags: int) -> int:
    """The errno of a place where nothing can be mapped, or nothing of this kind."""
    if first >= last or (flags & vm.HUGETLB and first % LEAF_PAGES):
        return EINVAL
    return ENOMEM if last > mm.top else 0


def _possible_access(file: File | None, *, shared: bool) -> int:
    """What mprotect(2) may ever allow of a mapping."""
    if not shared:
        return _MAY
    may = _MAY | vm.MAY_SHARE
    return may if file is None or file.writable else may & ~vm.MAY_WRITE


def _flags_by_default(mm: Mm, access: int, may: int, flags: int, *, shared: bool) -> int:
    """The flags that a mapping gets without anybody's asking."""
    given = vm.LOCKED if mm.lock_future and not flags & vm.HUGETLB else 0
    if shared:
        return given | (vm.SHARED if may & vm.MAY_WRITE else 0)  # what nobody can write to is as good as private
    if access & vm.WRITE and not flags & (vm.NO_RESERVE | vm.HUGETLB):
        return given | vm.ACCOUNT
    return given


def _flags_by_nature(mm: Mm, file: File | None) -> int:
    """The flags that who answers for a file gives its mappings."""
    behaviour = mm.system.behaviour
    if file is not None and file.nature == RING:
        by_number = vm.PFNMAP | vm.IO if behaviour.ring_by_number else 0
        return vm.DONT_COPY | vm.DONT_EXPAND | vm.DONT_DUMP | by_number
    if file is not None and file.nature == SECRET:
        return vm.DONT_DUMP | (vm.LOCKED if behaviour.secret_is_locked else 0)
    return 0


def munmap(mm: Mm, first: int, last: int) -> int:
    """munmap(2): take the pages, the mappings and the page tables that nothing else needs."""
    if first >= last or last > mm.top:
        return EINVAL
    if mm.system.path is not None:
        mm.system.path.unmapping(first, last)
    doomed = mm.vmas.within(first, last)
    if not doomed:
        return 0
    if any(vma.flags & vm.SEALED for vma in doomed):
        if mm.system.behaviour.seal_per_mapping and not doomed[0].flags & vm.SEALED:
            mm.vmas.split(first)  # the seal is found when the first mapping is split already
        return EPERM
    splits = (doomed[0].first < first) and (doomed[-1].last > last) and len(doomed) == 1
    if splits and len(mm.vmas) >= mm.system.max_map_count:
        return ENOMEM
    if hugetlb.refuses_split(mm, first, last):
        return EINVAL
    mm.vmas.split(first)
    mm.vmas.split(last)
    doomed = mm.vmas.within(first, last)
    for vma in doomed:
        zap(mm, vma, vma.first, vma.last)
    mm.vmas.remove(first, last)
    hugetlb.close(mm, doomed)
    floor, ceiling = mm.bounds_of(first, last)
    freed = mm.table.free_tables(doomed[0].first, doomed[-1].last, floor, ceiling)
    if mm.system.path is not None:
        mm.system.path.unmapped(freed)
    return 0


def mprotect(mm: Mm, first: int, last: int, access: int) -> int:
    """mprotect(2): mapping by mapping, ascending; ends at the first hole with ENOMEM."""
    if first == last:
        return 0
    page = first
    while page < last:
        vma = mm.vmas.find(page)
        if vma is None:
            return ENOMEM
        end = min(vma.last, last)
        if access & ~(vma.flags >> 4) & vm.ACCESS:
            return EACCES
        if vma.flags & vm.SEALED:
            return EPERM
        if (vma.flags ^ access) & vm.ACCESS and hugetlb.refuses_split(mm, page, end):
            return EINVAL
        _protect(mm, vma, page, end, access)
        page = end
    return 0


def mlock(mm: Mm, first: int, last: int, *, on_fault: bool = False) -> int:
    """mlock(2): set the flag on every mapping up to a hole, then bring all pages in."""
    wanted = vm.LOCKED | (vm.LOCK_ON_FAULT if on_fault else 0)
    if refused := _flag_all(mm, first, last, vm.LOCKED | vm.LOCK_ON_FAULT, wanted):
        return refused
    return populate(mm, first, last)  # hugetlb memory takes no flag, and is brought in whatever was asked for


def munlock(mm: Mm, first: int, last: int) -> int:
    """munlock(2)."""
    return _flag_all(mm, first, last, vm.LOCKED | vm.LOCK_ON_FAULT, 0)


def populate(mm: Mm, first: int, last: int) -> int:
    """Bring in what is to be locked, writable private memory by a write (populate_vma_page_range)."""
    page = first
    while page < last:
        vma = mm.vmas.find(page)
        if vma is None:
            return ENOMEM
        end = min(vma.last, last)
        on_fault = vma.flags & vm.LOCK_ON_FAULT
        if not on_fault or mm.system.behaviour.lock_on_fault_looks:
            write = vma.flags & (vm.WRITE | vm.SHARED) == vm.WRITE
            if vma.flags & (vm.IO | vm.PFNMAP) or not vma.flags & vm.ACCESS:
                return ENOMEM
            if not on_fault and get_pages(mm, vma, page, end, write=write):
                return ENOMEM
        page = end
    return 0


def set_flags(mm: Mm, vma: Vma, first: int, last: int, flags: int) -> Vma | None:
    """Give pages `[first, last)` of a mapping these flags: split it, change the part, merge it with its neighbours.

    Returns:
        The mapping of `first` now; None: that would be one mapping too many.
    """
    if flags == vma.flags:
        return vma
    vmas = mm.vmas
    if len(vmas) + (vma.first < first) + (last < vma.last) > mm.system.max_map_count:
        return None
    if last < vma.last:
        split_at(mm, vma, last)
        vmas.split(last)
    if vma.first < first:
        split_at(mm, vma, first)
        vmas.split(first)
    part = vmas.find(first)
    assert part is not None  # noqa: S101 - it was just split there
    part.flags = flags
    return vmas.merge(part)


def _flag_all(mm: Mm, first: int, last: int, clear: int, wanted: int) -> int:
    page = first
    while page < last:
        vma = mm.vmas.find(page)
        if vma is None:
            return ENOMEM
        end = min(vma.last, last)
        if not vma.flags & vm.SPECIAL and set_flags(mm, vma, page, end, vma.flags & ~clear | wanted) is None:
            return ENOMEM
        page = end
    return 0


def _protect(mm: Mm, vma: Vma, first: int, last: int, access: int) -> None:
    """mprotect_fixup()."""
    before = vma.flags
    flags = before & ~vm.ACCESS | access
    if flags == before:
        return
    if access & vm.WRITE:
        if not before & _CHARGED:
            flags |= vm.ACCOUNT
    elif before & vm.ACCOUNT and vma.is_anonymous and not vma.anon_vma and mm.system.behaviour.uncharges_read_only:
        flags &= ~vm.ACCOUNT
    changed = set_flags(mm, vma, first, last, flags)
    if changed is None:
        return
    if mm.system.behaviour.protects_parts_together and mm.system.frames.has_huge:
        even_out(mm, first, last)
    if before & vm.WRITE and not access & vm.WRITE:
        split_at(mm, changed, first)
        split_at(mm, changed, last)
        mm.table.recode(first, last, WRITE, 0)
    elif access & vm.WRITE:
        _allow_writing(mm, changed, first, last)
    if before & (vm.WRITE | vm.SHARED | vm.LOCKED) == vm.LOCKED and access & vm.WRITE:
        populate(mm, first, last)


def _allow_writing(mm: Mm, vma: Vma, first: int, last: int) -> None:
    """Make entries writable at once whose first write nobody waits to hear of.

    Those are of shared memory that is no file, and, of private memory, of frames that are known to be its own.
    """
    if vma.flags & vm.SHARED:
        if vma.file is not None and vma.file.in_memory:
            mm.table.recode(first, last, 0, WRITE, kinds=frozenset((SHMEM, HUGETLB)))
    elif mm.system.behaviour.mprotect_gives_leave:
        is_exclusive = mm.system.frames.is_exclusive
        for start, end, code, frame in mm.table.runs(first, last):
            if code & (KIND | WRITE) != ANON:
                continue
            if is_exclusive(frame, end - start):
                mm.table.recode(start, end, 0, WRITE)
            elif not code & HUGE:
                for page in range(start, end):
                    if is_exclusive(frame + page - start, 1):
                        mm.table.recode(page, page + 1, 0, WRITE)
