"""fork(2): a copy of an address space that shares its anonymous frames until one of the two writes.

Kernel:
    kernel/fork.c dup_mmap(); mm/memory.c copy_page_range(). A mapping that never held an anonymous page is not walked:
    its pages fault again in the child.
"""

from __future__ import annotations

from dontneed.model.paging import hugetlb
from dontneed.model.space import vma as vm
from dontneed.model.space.entries import (
    ANON,
    DIRTY,
    FILE,
    HUGE,
    HUGETLB,
    KIND,
    LEAF_PAGES,
    PFN,
    SHMEM,
    SWAP,
    WRITE,
    YOUNG,
)
from dontneed.model.space.vma import Vma, new_anon_vma

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.model.space.mm import Mm

_ALWAYS_COPIED = vm.PFNMAP | vm.MIXED_MAP | vm.NONLINEAR


def fork(parent: Mm) -> Mm:
    """The address space of a child."""
    child = parent.copy_settings()
    always = _ALWAYS_COPIED | (0 if parent.system.behaviour.hugetlb_faults_in_child else vm.HUGETLB)
    for vma in parent.vmas:
        if vma.flags & vm.DONT_COPY:
            continue
        twin = _twin(parent, vma)
        child.vmas.insert(twin)
        if twin.file is not None:
            twin.file.mappers.add(child)
        if vma.flags & vm.WIPE_ON_FORK:
            twin.anon_vma, twin.inherited = 0, False
        elif vma.anon_vma or vma.flags & (always | vm.MAYBE_GUARD):
            _copy_pages(parent, child, vma)
    return child


def _twin(parent: Mm, vma: Vma) -> Vma:
    twin = vma.copy()
    twin.flags &= ~(vm.LOCKED | vm.LOCK_ON_FAULT)
    if vma.anon_vma and parent.system.behaviour.anon_vma_chains:
        twin.anon_vma, twin.inherited = new_anon_vma(), True
    return twin


def _copy_pages(parent: Mm, child: Mm, vma: Vma) -> None:
    """copy_page_range(): what can be written is write-protected on both sides, and the child's copy is old."""
    private = not vma.flags & vm.SHARED
    frames, swap = parent.system.frames, parent.system.swap
    lost = YOUNG | (WRITE if private else DIRTY)
    if private:
        parent.table.recode(vma.first, vma.last, WRITE, 0)
    parent.table.copy_upper_to(child.table, vma.first, vma.last)
    for number in parent.table.tables(vma.first, vma.last):
        child.table.ensure(number * LEAF_PAGES)  # even for one that is empty: it keeps the child's slot from being huge
    for first, last, code, value in parent.table.runs(vma.first, vma.last):
        kind, pages = code & KIND, last - first
        if kind == PFN or (code & HUGE and kind in (FILE, SHMEM)):
            continue  # a fault finds them again
        if kind == ANON:
            frames.share(value, pages)
            child.resident[ANON] += pages
        elif kind in (FILE, SHMEM):
            frames.map_cached(value, pages)
            child.resident[kind] += pages
        elif kind == SWAP:
            swap.share(value, pages)
            child.resident[SWAP] += pages
        elif kind == HUGETLB:
            hugetlb.share(child, first, value)
        child.table.put(first, last, code & ~lost if kind in (ANON, FILE, SHMEM) else code, value)
