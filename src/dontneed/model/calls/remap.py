"""mremap(2): mappings that shrink, grow and move, with their pages; no page is copied.

A move makes a mapping at the new place, hands the page-table entries over, and unmaps the old one (or, since 5.7,
leaves it there, empty). Pages know their place by the mapping's offset, so a mapping of anonymous memory that ever held
one keeps its offset when it moves, and is then no neighbour that fresh memory would merge with.

What is checked, and when, changed twice. Until 5.15 a shrink did not even ask for a mapping; until 6.16 what was in the
way of a fixed move was unmapped before the source was looked at. Since 6.17 everything is checked first, and a move
that does not resize may take several mappings at once.

Kernel:
    2.6.32: mm/mremap.c do_mremap(), mremap_to(), vma_to_resize(), move_vma(); 6.18: check_mremap_params(),
    remap_move(), check_prep_vma(), mremap_to(), mremap_at(), move_vma(); mm/vma.c copy_vma().
"""

from __future__ import annotations

from dontneed.abi.errnos import EFAULT, EINVAL, ENOMEM, EPERM
from dontneed.model.calls.mappings import find_gap, munmap, populate, set_flags
from dontneed.model.paging import hugetlb
from dontneed.model.paging.huge import split_at
from dontneed.model.space import vma as vm
from dontneed.model.space.entries import LEAF_PAGES
from dontneed.model.space.mm import PAGE_SHIFT, TOP
from dontneed.records import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from dontneed.model.space.mm import Mm
    from dontneed.model.space.vma import Vma
    from dontneed.model.versions import Behaviour

MAY_MOVE = 1
FIXED = 2
DONT_UNMAP = 4

_SPARE_MAPPINGS = 3
"""A move may need so many mappings more for a moment."""
_TASK_PAGES = TOP - 1
"""The last page below 128 TiB is never mapped."""
_ADDRESSES = 1 << 64 - PAGE_SHIFT
"""Pages that 64 bits can name."""
_NAMED_BY_PLACE = ("[heap]", "[stack]")


class _Remap(Record):
    """What is asked for: pages `[first, first + pages)` are to be `new_pages`, at `target` if the flags say so."""

    first: int
    pages: int
    new_pages: int
    flags: int
    target: int

    @property
    def last(self) -> int:
        return self.first + self.pages

    @property
    def is_move(self) -> bool:
        """Whether the mapping moves whatever its size."""
        return bool(self.flags & (FIXED | DONT_UNMAP))

    @property
    def grows(self) -> bool:
        return self.new_pages > self.pages


def mremap(
    mm: Mm,
    first: int,
    pages: int,
    new_pages: int,
    flags: int = 0,
    new_first: int | None = None,
    *,
    place: Callable[[int], int] | None = None,
) -> tuple[int, int]:
    """mremap(2), in pages: rounding lengths up, and that addresses begin a page, is the caller's business.

    Args:
        mm: whose memory.
        first: the first page of what is remapped.
        pages: its length; 0 for another mapping of the same shared memory.
        new_pages: its length afterwards.
        flags: of MAY_MOVE, FIXED, DONT_UNMAP.
        new_first: where it goes with FIXED; where it had best go with DONT_UNMAP alone.
        place: finds room for so many pages, or answers 0; by default, from the top down as mmap does.
    Returns:
        An errno and 0; or 0 and the first page of where it is now.
    """
    remap = _Remap(first, pages, new_pages, flags, new_first or 0)
    if refused := _check_words(mm, remap):
        return refused, 0
    find_room = place or (lambda wanted: find_gap(mm, wanted))
    if mm.system.behaviour.remap_many and flags & FIXED and pages == new_pages:
        return _move_each(mm, remap, find_room)
    return _remap_one(mm, remap, find_room)


def _move_each(mm: Mm, remap: _Remap, place: Callable[[int], int]) -> tuple[int, int]:
    """Move every mapping of the range, gaps in between included; what moved before one refuses has moved."""
    page = remap.first
    while page < remap.last:
        vma = mm.vmas.find_from(page)
        if vma is None or vma.first >= remap.last:
            break
        if vma.first > page == remap.first:
            return EFAULT, 0
        start, end = max(vma.first, page), min(vma.last, remap.last)
        target = remap.target + start - remap.first
        part = remap.replace(first=start, pages=end - start, new_pages=end - start, target=target)
        refused, _ = _remap_one(mm, part, place)
        if refused:
            return refused, 0
        page = end
    return (EFAULT, 0) if page == remap.first else (0, remap.target)


def _remap_one(mm: Mm, remap: _Remap, place: Callable[[int], int]) -> tuple[int, int]:
    behaviour = mm.system.behaviour
    if behaviour.remap_looks_first:
        vma = mm.vmas.find(remap.first)
        if vma is None:
            return EFAULT, 0
        if vma.flags & vm.SEALED:
            return EPERM, 0
        if vma.flags & vm.HUGETLB:
            remap = remap.replace(pages=_huge(remap.pages), new_pages=_huge(remap.new_pages))
            if (remap.first | remap.target) % LEAF_PAGES or remap.grows:
                return EINVAL, 0
    if behaviour.remap_checks_first and (remap.is_move or remap.grows):
        refused = _check_source(mm, remap)
        if refused:
            return refused, 0
    return _remap_to(mm, remap, place) if remap.is_move else _remap_at(mm, remap, place)


# What is refused


def _check_words(mm: Mm, remap: _Remap) -> int:
    """What is refused without a look at the mappings."""
    behaviour = mm.system.behaviour
    known = MAY_MOVE | FIXED | (DONT_UNMAP if behaviour.remap_leaves_source else 0)
    if remap.flags & ~known or not remap.new_pages:
        return EINVAL
    if behaviour.remap_many and remap.new_pages > _TASK_PAGES:
        return EINVAL
    if remap.is_move:
        if not remap.flags & MAY_MOVE:
            return EINVAL
        if remap.flags & DONT_UNMAP and remap.pages != remap.new_pages:
            return EINVAL
        if behaviour.remap_checks_first and (refused := _check_target(remap)):
            return refused
        if len(mm.vmas) + 2 >= mm.system.max_map_count - _SPARE_MAPPINGS:
            return ENOMEM
    return 0


def _check_target(remap: _Remap) -> int:
    """A new place lies within the address space, and apart from the old one."""
    if remap.target > _TASK_PAGES - remap.new_pages:
        return EINVAL
    last = remap.last % _ADDRESSES  # the kernel does not mind that it wraps
    return EINVAL if last > remap.target and remap.target + remap.new_pages > remap.first else 0


def _check_source(mm: Mm, remap: _Remap) -> int:
    """Whether the mapping can be moved, or grow (vma_to_resize, remap_is_valid, check_prep_vma)."""
    behaviour = mm.system.behaviour
    vma = mm.vmas.find(remap.first)
    if vma is None:
        return EFAULT
    if vma.flags & vm.HUGETLB and not behaviour.remap_looks_first:
        return EINVAL
    if not remap.pages and not vma.flags & (vm.SHARED | vm.MAY_SHARE) and not behaviour.remap_renews_private:
        return EINVAL
    if remap.flags & DONT_UNMAP and not _may_stay(vma, behaviour):
        return EINVAL
    moved = min(remap.pages, remap.new_pages)  # what a shrink cuts off may lie behind the mapping's end
    if remap.first + moved > vma.last:
        return EFAULT
    if remap.new_pages > moved and vma.flags & (vm.DONT_EXPAND | vm.PFNMAP):
        return EFAULT
    return 0


def _may_stay(vma: Vma, behaviour: Behaviour) -> bool:
    """Whether DONT_UNMAP can leave a mapping behind."""
    if behaviour.remap_leaves_files:
        return not vma.flags & (vm.DONT_EXPAND | vm.PFNMAP)
    return vma.is_anonymous and not vma.flags & vm.SHARED


def _huge(pages: int) -> int:
    return -(-pages // LEAF_PAGES) * LEAF_PAGES


# Where it is, or elsewhere


def _remap_at(mm: Mm, remap: _Remap, place: Callable[[int], int]) -> tuple[int, int]:
    """Shrink or grow where it is, or move in order to grow (mremap_at)."""
    if remap.new_pages == remap.pages:
        return 0, remap.first
    if remap.new_pages < remap.pages:
        refused = munmap(mm, remap.first + remap.new_pages, remap.last)
        return refused, 0 if refused else remap.first
    if not mm.system.behaviour.remap_checks_first and (refused := _check_source(mm, remap)):
        return refused, 0
    if _grow_in_place(mm, remap):
        return 0, remap.first
    if not remap.flags & MAY_MOVE:
        return ENOMEM, 0
    target = place(remap.new_pages)
    return _move(mm, remap.replace(target=target)) if target else (ENOMEM, 0)


def _remap_to(mm: Mm, remap: _Remap, place: Callable[[int], int]) -> tuple[int, int]:
    """Move it, whatever its size (mremap_to)."""
    checks_first = mm.system.behaviour.remap_checks_first
    if not checks_first and (refused := _check_target(remap)):
        return refused, 0
    if remap.flags & FIXED:
        if refused := munmap(mm, remap.target, remap.target + remap.new_pages):
            return refused, 0
        if mm.vmas.find(remap.first) is None:
            return EFAULT, 0  # it lay there itself, which a length that wraps had hidden
    if remap.new_pages < remap.pages:
        if refused := munmap(mm, remap.first + remap.new_pages, remap.last):
            return refused, 0
        remap = remap.replace(pages=remap.new_pages)
    if not checks_first and (refused := _check_source(mm, remap)):
        return refused, 0
    if not remap.flags & FIXED and not _is_room(mm, remap.target, remap.new_pages):
        target = place(remap.new_pages)
        if not target:
            return ENOMEM, 0
        remap = remap.replace(target=target)
    return _move(mm, remap)


def _is_room(mm: Mm, first: int, pages: int) -> bool:
    """Whether a hint can be followed: nothing is mapped there, nor a stack about to grow down to it."""
    if not first:
        return False
    above = mm.vmas.find_from(first)
    gap = mm.system.behaviour.stack_gap_pages if above is not None and above.flags & vm.GROWS_DOWN else 0
    return above is None or first + pages <= above.first - gap


def _grow_in_place(mm: Mm, remap: _Remap) -> bool:
    """Whether there was room behind the mapping; it is longer then, and may have met what it merges with."""
    vma = mm.vmas.find(remap.first)
    last = remap.first + remap.new_pages
    if vma is None or vma.last != remap.last or last > _TASK_PAGES or mm.vmas.within(remap.last, last):
        return False
    vma.last = last
    if mm.system.behaviour.remap_merges_above:
        mm.vmas.merge_above(vma)
    _populate_grown(mm, vma, remap.last, last)
    return True


# The move


def _move(mm: Mm, remap: _Remap) -> tuple[int, int]:
    """Make a mapping at the target, hand it the pages, and end the old one (move_vma)."""
    if len(mm.vmas) >= mm.system.max_map_count - _SPARE_MAPPINGS:
        return ENOMEM, 0
    counted = mm.locked_pages + _newly_locked(mm, remap) if remap.flags & DONT_UNMAP else 0
    copy = _copy(mm, remap)
    if remap.pages:
        _move_entries(mm, remap)
        if remap.flags & DONT_UNMAP:
            _leave_source(mm, remap, copy)
            mm.locked_pages_lost += counted - mm.locked_pages
        else:
            munmap(mm, remap.first, remap.last)
    _populate_grown(mm, copy, remap.target + remap.pages, remap.target + remap.new_pages)
    return 0, remap.target


def _newly_locked(mm: Mm, remap: _Remap) -> int:
    """The pages by which VmLck grows when a mapping moves; what is unmapped then makes up for it (vrm_stat_account)."""
    source = mm.vmas.find(remap.first)
    if source is None or not source.flags & vm.LOCKED or not mm.system.behaviour.remap_counts_locked:
        return 0
    return remap.new_pages


def _copy(mm: Mm, remap: _Remap) -> Vma:
    """The mapping at the target: the source's twin, or a neighbour that takes it in (copy_vma).

    Memory that never held a page takes its new address for an offset, so that it merges where it comes to lie: even
    with the rest of its own source.
    """
    vma = mm.vmas.find(remap.first)
    assert vma is not None  # noqa: S101 - looked for before
    twin = vma.copy()
    twin.offset = remap.target if vma.is_anonymous and not vma.anon_vma else vma.file_page(remap.first)
    twin.first, twin.last = remap.target, remap.target + remap.new_pages
    if twin.name in _NAMED_BY_PLACE:
        twin.name = ""
    mm.vmas.insert(twin)
    apart = remap.flags & DONT_UNMAP and mm.system.behaviour.remap_leaves_part
    return mm.vmas.merge(twin, but_not=vma if apart else None)


def _move_entries(mm: Mm, remap: _Remap) -> None:
    """move_page_tables(): a huge page moves as one if it is a whole one at both places."""
    behaviour = mm.system.behaviour
    first, last, target = remap.first, remap.last, remap.target
    vma = mm.vmas.find(first)
    assert vma is not None  # noqa: S101 - looked for before
    if (target - first) % LEAF_PAGES:
        for slot in range(first & -LEAF_PAGES, last, LEAF_PAGES):
            split_at(mm, vma, slot + 1)
    else:
        split_at(mm, vma, first)
        split_at(mm, vma, last)
    back = _alignable(mm, first, last, target) if behaviour.remap_realigns else 0
    mm.table.move(first - back, last, target - back, whole_tables=behaviour.remap_moves_tables)
    if vma.flags & vm.HUGETLB:
        hugetlb.move(mm, first, last, target)


def _alignable(mm: Mm, first: int, last: int, target: int) -> int:
    """How many pages the move may begin earlier, so as to take the first page table whole (try_realign_addr)."""
    back = first % LEAF_PAGES
    if not back or target % LEAF_PAGES != back or last - first < LEAF_PAGES - back:
        return 0
    for page in (first, target):
        vma = mm.vmas.find(page)
        if vma is None or vma.first != page or mm.vmas.within(page - back, page):
            return 0
    return back


def _leave_source(mm: Mm, remap: _Remap, copy: Vma) -> None:
    """Unlock a mapping that stays behind, all of it, though only a part may have moved; since 7.2 just that part.

    Nobody takes what is unlocked so out of VmLck.
    """
    source = mm.vmas.find(remap.first)
    assert source is not None  # noqa: S101 - nobody unmapped it
    flags = source.flags & ~(vm.LOCKED | vm.LOCK_ON_FAULT)
    if mm.system.behaviour.remap_leaves_part:
        source = set_flags(mm, source, remap.first, min(remap.last, source.last), flags) or source
    else:
        source.flags = flags
    if source is not copy and (source.first, source.last) == (remap.first, remap.last):
        source.anon_vma, source.inherited = 0, False


def _populate_grown(mm: Mm, vma: Vma, first: int, last: int) -> None:
    """Locked memory has all its pages, also those that it grew by."""
    if first < last and vma.flags & (vm.LOCKED | vm.LOCK_ON_FAULT) == vm.LOCKED:
        populate(mm, first, last)
