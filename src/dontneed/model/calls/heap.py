"""brk(2): the heap, a mapping whose end a process moves.

Kernel:
    mm/mmap.c sys_brk(), do_brk_flags(). What brk cannot do it does not do, and answers with the end as it was.
"""

from __future__ import annotations

from dontneed.model.calls.mappings import munmap, populate
from dontneed.model.space import vma as vm
from dontneed.model.space.mm import PAGE_SHIFT, TOP
from dontneed.model.space.vma import Vma

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.model.space.mm import Mm

_FLAGS = vm.READ | vm.WRITE | vm.MAY_READ | vm.MAY_WRITE | vm.MAY_EXEC | vm.ACCOUNT
_TASK_PAGES = TOP - 1


def brk(mm: Mm, address: int) -> int:
    """brk(2), the system call; of the C library's, 0 means what `mm.brk` == `address` means here.

    Args:
        mm: whose heap.
        address: in bytes, where the heap is to end.
    Returns:
        Where it ends now: as it did before, if this could not be done.
    """
    if address >> PAGE_SHIFT < mm.brk_first:
        return mm.brk
    old, new = _pages(mm.brk), _pages(address)
    if new == old or (_grow(mm, old, new) if new > old else _shrink(mm, new, old)):
        mm.brk = address
    return mm.brk


def is_heap(mm: Mm, vma: Vma) -> bool:
    """Whether /proc/PID/maps calls a mapping `[heap]`: by its place alone, whatever it is (vma_is_initial_heap)."""
    return vma.first << PAGE_SHIFT < mm.brk and vma.last > mm.brk_first


def _grow(mm: Mm, old: int, new: int) -> bool:
    """Whether the heap could be longer: a page must stay free behind it."""
    above = mm.vmas.find_from(old)
    if new > _TASK_PAGES or len(mm.vmas) > mm.system.max_map_count:
        return False
    if above is not None:
        gap = mm.system.behaviour.stack_gap_pages if above.flags & vm.GROWS_DOWN else 0
        if new + 1 > above.first - gap:
            return False
    below = mm.vmas.find(old - 1)
    flags = _FLAGS | (vm.LOCKED if mm.lock_future else 0)
    vma = Vma(old, new, flags, None, old, below.name if below is not None else "")
    mm.vmas.insert(vma)
    if not mm.system.behaviour.heap_is_apart or (below is not None and below.last > mm.brk_first):
        mm.vmas.merge(vma)
    if mm.lock_future:
        populate(mm, old, new)
    return True


def _shrink(mm: Mm, new: int, old: int) -> bool:
    """Whether the heap could be shorter; if its end was unmapped behind its back, today's kernels refuse."""
    if mm.system.behaviour.heap_is_apart and not mm.vmas.within(new, old):
        return False
    return munmap(mm, new, old) == 0


def _pages(address: int) -> int:
    """The first page from `address` on."""
    return -(-address >> PAGE_SHIFT)
