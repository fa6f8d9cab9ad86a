"""Nonlinear mappings (remap_file_pages(2), until 4.0): pages of a file in an order of one's own, kept in the entries.

A discard leaves the order alone: where a page lay out of its place, an entry that names the page of the file remains,
and the next touch brings the same page again.

Kernel:
    2.6.32: mm/fremap.c sys_remap_file_pages(), mm/memory.c zap_pte_range() with details->nonlinear_vma. Since 4.0 the
    call is emulated by mappings of a page or more, and no such entries are left.
"""

from __future__ import annotations

from dontneed.abi.errnos import EINVAL
from dontneed.model.calls.mappings import mmap
from dontneed.model.paging.zap import zap
from dontneed.model.space.entries import KIND, MAPPED, MIGRATION, NONLINEAR, POISON, SWAP
from dontneed.model.space.vma import ACCESS, SHARED
from dontneed.model.space.vma import NONLINEAR as VM_NONLINEAR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.model.space.mm import Mm
    from dontneed.model.space.vma import Vma

_NOT_PRESENT = frozenset((SWAP, MIGRATION, NONLINEAR, POISON))
"""What a discard of a nonlinear mapping leaves as it is."""


def remap_file_pages(mm: Mm, first: int, last: int, file_page: int) -> int:
    """remap_file_pages(2): let pages `[first, last)` show those of their file from `file_page` on; an errno or 0."""
    vma = mm.vmas.find(first)
    if vma is None or last > vma.last or first >= last or vma.file is None or not vma.flags & SHARED:
        return EINVAL
    if not mm.system.behaviour.nonlinear:
        return mmap(mm, first, last, vma.flags & ACCESS, shared=True, file=vma.file, offset=file_page)
    vma.flags |= VM_NONLINEAR
    zap(mm, vma, first, last)
    mm.table.put(first, last, NONLINEAR, file_page)
    return 0


def discard_nonlinear(mm: Mm, vma: Vma, first: int, last: int) -> None:
    """MADV_DONTNEED of a nonlinear mapping: pages in their place go, others leave an entry that names them."""
    assert vma.file is not None  # noqa: S101 - only mappings of files are nonlinear
    page_of = {frame: page for page, frame in vma.file.cache.items()}
    shown = {
        page: page_of[value + page - start]
        for start, end, code, value in mm.table.runs(first, last)
        if code & KIND in MAPPED
        for page in range(start, end)
    }
    zap(mm, vma, first, last, keep=_NOT_PRESENT)
    for page, file_page in shown.items():
        if file_page != vma.file_page(page):
            mm.table.put(page, page + 1, NONLINEAR, file_page)
