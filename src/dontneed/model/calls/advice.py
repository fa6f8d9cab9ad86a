"""madvise(2): the order of its checks, its walk over mappings, and what each advice does to one.

Kernel:
    mm/madvise.c. The walk is the same in 2.6.32 and 6.18: ascending, a hole is skipped and turns success into ENOMEM at
    the end, a refusal by one mapping ends it at once.
"""

from __future__ import annotations

from functools import partial

from dontneed.abi.advice import Advice
from dontneed.abi.errnos import EACCES, EAGAIN, EBADF, EFAULT, EINVAL, ENODEV, ENOMEM, ENOSYS, EOPNOTSUPP, EPERM
from dontneed.model.calls.mappings import set_flags
from dontneed.model.calls.nonlinear import discard_nonlinear
from dontneed.model.memory.page_cache import REGULAR, SECRET
from dontneed.model.paging.collapse import collapse
from dontneed.model.paging.faults import get_pages, may_access
from dontneed.model.paging.hugetlb import refuses_split
from dontneed.model.paging.lazy import free_lazily
from dontneed.model.paging.pageout import make_cold, page_out, will_need
from dontneed.model.paging.zap import GUARDS, punch, zap
from dontneed.model.space import vma as vm
from dontneed.model.space.anon_vma import prepare_anon_vma
from dontneed.model.space.entries import GUARD, LEAF_PAGES
from dontneed.model.space.mm import PAGE_SHIFT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from dontneed.model.space.mm import Mm
    from dontneed.model.space.vma import Vma

_ADDRESSES = 1 << 64
_PAGE_MASK = (1 << PAGE_SHIFT) - 1
_NO_HUGE_ADVICE = vm.SPECIAL | vm.HUGETLB | vm.SHARED | vm.MAY_SHARE
_POPULATES = {int(Advice.POPULATE_READ): False, int(Advice.POPULATE_WRITE): True}
"""Those that fault pages in, and whether by a write."""
_DISCARDS = frozenset(
    int(each)
    for each in (
        Advice.FREE,
        Advice.DONTNEED,
        Advice.DONTNEED_LOCKED,
        Advice.REMOVE,
        Advice.DONTFORK,
        Advice.WIPEONFORK,
        Advice.GUARD_INSTALL,
    )
)
"""What mseal(2) guards against."""


def madvise(mm: Mm, address: int, length: int, number: int) -> int:
    """madvise(2).

    Args:
        mm: whose memory.
        address: in bytes, as the caller gave it.
        length: in bytes too.
        number: of the advice.
    Returns:
        The errno, or 0.
    """
    system = mm.system
    if system.path is not None:
        system.path.advising(address, length, number)
    if number not in system.advices:
        return EINVAL
    if address & _PAGE_MASK:
        return EINVAL
    size = (length + _PAGE_MASK) % _ADDRESSES & ~_PAGE_MASK
    end = (address + size) % _ADDRESSES
    if (length and not size) or end < address:
        return EINVAL
    if end == address:
        return 0
    first, last = address >> PAGE_SHIFT, end >> PAGE_SHIFT
    if number in _POPULATES and system.behaviour.populate_ends_at_holes:
        return _populate(mm, first, last, write=_POPULATES[number])
    if number in _DISCARDS and not system.behaviour.seal_per_mapping and _any_sealed(mm, first, last):
        return EPERM
    return _walk(mm, first, last, number)


def _walk(mm: Mm, first: int, last: int, number: int) -> int:
    """Advise every mapping of the range, ascending."""
    act = _ACTIONS[number]
    is_discard = number in _DISCARDS
    answer = 0
    page = first
    while page < last:
        vma = mm.vmas.find_from(page)
        if vma is None or vma.first >= last:
            return ENOMEM
        if vma.first > page:
            answer = ENOMEM
            page = vma.first
        end = min(vma.last, last)
        if is_discard and _is_sealed(vma):
            return EPERM
        if refused := act(mm, vma, page, end):
            return refused
        page = end
    return answer


def _is_sealed(vma: Vma) -> bool:
    """Whether a discard of a mapping is forbidden: sealed, anonymous, and not to be overwritten anyway."""
    return bool(vma.flags & vm.SEALED) and vma.is_anonymous and not vma.flags & vm.WRITE


def _any_sealed(mm: Mm, first: int, last: int) -> bool:
    return any(_is_sealed(vma) for vma in mm.vmas.within(first, last))


# Discards


def _discard(mm: Mm, vma: Vma, first: int, last: int) -> int:
    if vma.flags & vm.LOCKED:
        return EINVAL
    return _discard_locked(mm, vma, first, last)


def _discard_locked(mm: Mm, vma: Vma, first: int, last: int) -> int:
    behaviour = mm.system.behaviour
    if vma.flags & vm.PFNMAP:
        return EINVAL
    if vma.flags & vm.HUGETLB:
        if not behaviour.hugetlb_dontneed or first % LEAF_PAGES:
            return EINVAL
        rounding = 0 if behaviour.hugetlb_end_down else LEAF_PAGES - 1
        last = (last + rounding) // LEAF_PAGES * LEAF_PAGES
        if first >= last:
            return 0
    if vma.flags & vm.NONLINEAR:
        discard_nonlinear(mm, vma, first, last)
    else:
        zap(mm, vma, first, last, keep=GUARDS, free_tables=behaviour.frees_tables)
    return 0


def _free(mm: Mm, vma: Vma, first: int, last: int) -> int:
    if not vma.is_anonymous or vma.flags & (vm.LOCKED | vm.HUGETLB | vm.PFNMAP):
        return EINVAL
    behaviour = mm.system.behaviour
    if not behaviour.free_keeps_without_swap and not mm.system.swap.enabled:
        zap(mm, vma, first, last, keep=GUARDS)
    else:
        free_lazily(mm, vma, first, last)
    return 0


def _remove(mm: Mm, vma: Vma, first: int, last: int) -> int:
    behaviour = mm.system.behaviour
    file = vma.file
    never = vm.LOCKED if behaviour.remove_by_hole else vm.LOCKED | vm.NONLINEAR | vm.HUGETLB
    if vma.flags & never or file is None or not vma.has_file:
        return EINVAL
    needed = vm.SHARED | (vm.MAY_WRITE if behaviour.remove_may_write else vm.WRITE)
    if vma.flags & needed != needed:
        return EACCES
    if file.nature != REGULAR:
        return EOPNOTSUPP if file.nature == SECRET else ENODEV
    if not behaviour.remove_by_hole and not file.in_memory:
        return ENOSYS
    punch(file, vma.file_page(first), vma.file_page(last - 1) + 1)
    return 0


def _install_guards(mm: Mm, vma: Vma, first: int, last: int) -> int:
    behaviour = mm.system.behaviour
    if vma.flags & (vm.LOCKED | vm.SPECIAL | vm.HUGETLB) or (not vma.is_anonymous and not behaviour.guard_files):
        return EINVAL
    if behaviour.guard_is_sticky:
        vma.flags |= vm.MAYBE_GUARD
    if vma.is_anonymous or not behaviour.guard_is_sticky:
        prepare_anon_vma(mm, vma)
    zap(mm, vma, first, last)
    mm.table.put(first, last, GUARD, 0)
    return 0


def _remove_guards(mm: Mm, vma: Vma, first: int, last: int) -> int:
    if vma.flags & (vm.SPECIAL | vm.HUGETLB) or not (vma.is_anonymous or mm.system.behaviour.guard_files):
        return EINVAL
    for start, end, code, _ in mm.table.runs(first, last):
        if code == GUARD:
            mm.table.clear(start, end)
    return 0


# Reclaim and its opposite


def _reclaimable(act: Callable[[Mm, Vma, int, int], None]) -> Callable[[Mm, Vma, int, int], int]:
    def advised(mm: Mm, vma: Vma, first: int, last: int) -> int:
        if vma.flags & (vm.LOCKED | vm.PFNMAP | vm.HUGETLB):
            return EINVAL
        act(mm, vma, first, last)
        return 0

    return advised


def _will_need(mm: Mm, vma: Vma, first: int, last: int) -> int:
    if not vma.has_file and not mm.system.behaviour.willneed_anonymous:
        return EBADF
    will_need(mm, vma, first, last)
    return 0


def _populate_one(mm: Mm, vma: Vma, first: int, last: int, *, write: bool) -> int:
    """The same of one mapping."""
    readable = bool(vma.flags & (vm.WRITE if write else vm.READ))
    if vma.flags & (vm.IO | vm.PFNMAP) or not readable or _is_secret(vma) or not may_access(vma, write=write):
        return EINVAL
    return EFAULT if get_pages(mm, vma, first, last, write=write) else 0


def _populate(mm: Mm, first: int, last: int, *, write: bool) -> int:
    """Fault every page in, up to a hole or a page that cannot be had; no walk over mappings."""
    page = first
    while page < last:
        vma = mm.vmas.find(page)
        if vma is None:
            return ENOMEM
        end = min(vma.last, last)
        if refused := _populate_one(mm, vma, page, end, write=write):
            return refused
        page = end
    return 0


def _is_secret(vma: Vma) -> bool:
    return vma.file is not None and vma.file.nature == SECRET


# Flags


def _flag(clear: int = 0, put: int = 0, *, never: int = 0) -> Callable[[Mm, Vma, int, int], int]:
    """What sets and clears flags of mappings without any of the flags `never`."""

    def advised(mm: Mm, vma: Vma, first: int, last: int) -> int:
        if vma.flags & never:
            return EINVAL
        return _set(mm, vma, first, last, vma.flags & ~clear | put)

    return advised


def _set(mm: Mm, vma: Vma, first: int, last: int, flags: int) -> int:
    if flags != vma.flags and refuses_split(mm, first, last):
        return EINVAL
    return EAGAIN if set_flags(mm, vma, first, last, flags) is None else 0


def _fork(mm: Mm, vma: Vma, first: int, last: int) -> int:
    never = vm.IO if mm.system.behaviour.dofork_of_special else vm.SPECIAL
    return EINVAL if vma.flags & never else _set(mm, vma, first, last, vma.flags & ~vm.DONT_COPY)


def _huge(clear: int, put: int) -> Callable[[Mm, Vma, int, int], int]:
    """What asks for huge pages, or for none."""

    def advised(mm: Mm, vma: Vma, first: int, last: int) -> int:
        if vma.flags & _NO_HUGE_ADVICE and not mm.system.behaviour.huge_advice_for_all:
            return EINVAL
        return _set(mm, vma, first, last, vma.flags & ~clear | put)

    return advised


def _dump(mm: Mm, vma: Vma, first: int, last: int) -> int:
    taken = vm.HUGETLB if mm.system.behaviour.dumps_hugetlb else 0
    if (vma.flags & vm.SPECIAL and not vma.flags & taken) or vma.flags & vm.DROPPABLE:
        return EINVAL
    return _set(mm, vma, first, last, vma.flags & ~vm.DONT_DUMP)


def _wipe_on_fork(mm: Mm, vma: Vma, first: int, last: int) -> int:
    if vma.has_file or vma.flags & vm.SHARED:
        return EINVAL
    return _set(mm, vma, first, last, vma.flags | vm.WIPE_ON_FORK)


def _mergeable(mm: Mm, vma: Vma, first: int, last: int) -> int:
    if vma.flags & (vm.SHARED | vm.SPECIAL | vm.HUGETLB | vm.DROPPABLE):
        return 0  # ignored, and reported as success
    return _set(mm, vma, first, last, vma.flags | vm.MERGEABLE)


_ACTIONS: dict[int, Callable[[Mm, Vma, int, int], int]] = {
    int(advice): act
    for advice, act in (
        (Advice.NORMAL, _flag(vm.RAND_READ | vm.SEQ_READ)),
        (Advice.RANDOM, _flag(vm.SEQ_READ, vm.RAND_READ)),
        (Advice.SEQUENTIAL, _flag(vm.RAND_READ, vm.SEQ_READ)),
        (Advice.WILLNEED, _will_need),
        (Advice.DONTNEED, _discard),
        (Advice.FREE, _free),
        (Advice.REMOVE, _remove),
        (Advice.DONTFORK, _flag(put=vm.DONT_COPY)),
        (Advice.DOFORK, _fork),
        (Advice.MERGEABLE, _mergeable),
        (Advice.UNMERGEABLE, _flag(vm.MERGEABLE)),
        (Advice.HUGEPAGE, _huge(vm.NO_HUGE_PAGE, vm.HUGE_PAGE)),
        (Advice.NOHUGEPAGE, _huge(vm.HUGE_PAGE, vm.NO_HUGE_PAGE)),
        (Advice.DONTDUMP, _flag(put=vm.DONT_DUMP)),
        (Advice.DODUMP, _dump),
        (Advice.WIPEONFORK, _wipe_on_fork),
        (Advice.KEEPONFORK, _flag(vm.WIPE_ON_FORK, never=vm.DROPPABLE)),
        (Advice.COLD, _reclaimable(make_cold)),
        (Advice.PAGEOUT, _reclaimable(page_out)),
        (Advice.POPULATE_READ, partial(_populate_one, write=False)),
        (Advice.POPULATE_WRITE, partial(_populate_one, write=True)),
        (Advice.DONTNEED_LOCKED, _discard_locked),
        (Advice.COLLAPSE, collapse),
        (Advice.GUARD_INSTALL, _install_guards),
        (Advice.GUARD_REMOVE, _remove_guards),
    )
}
