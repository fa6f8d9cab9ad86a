"""When the TLB is flushed while pages are zapped: the batches of an mmu_gather, and the budget of 2.6.32.

Kernel:
    2.6.32: include/asm-generic/tlb.h FREE_PTE_NR (506 pages on SMP), mm/memory.c zap_work (ZAP_BLOCK_SIZE, 1,024 pages
    without preemption; an entry that is none costs a byte, any other a page); a flush is of the whole address space.
    6.18: mm/mmu_gather.c, 8 pages on the stack and up to 19 batches of 510; x86 flushes up to 33 pages one by one.
"""

from __future__ import annotations

from dontneed.model.entries import DIRTY, FILE, HUGE, KIND, MAPPED, SHMEM

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.model.versions import Behaviour

_PAGE_COST = 4096
_SINGLE_FLUSH_PAGES = 33


class Gather:
    """One mmu_gather: told of the entries in ascending order, it says when the TLB is flushed."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._gathered = 0
        self._met = 0
        self._pending = 0
        self._shared_dirty = False
        self._work = self._budget
        self._flushes: list[str] = []

    def meet(self, pages: int, code: int, *, kept: bool) -> None:
        """Meet `pages` entries alike.

        Args:
            pages: how many.
            code: of the modelled entry; 0: none.
            kept: they stay.
        """
        if not code or kept:
            self._met += pages
            self._spend(pages if not code else pages * _PAGE_COST)
            return
        holds_frames = code & KIND in MAPPED
        if code & HUGE:
            self._met += pages
            self._pending += pages
            self._gathered += 1  # one folio
            self._flush_if_full()
            return
        if code & DIRTY and code & KIND in (FILE, SHMEM):
            self._shared_dirty = True
        for _ in range(pages):
            self._met += 1
            self._pending += 1
            if holds_frames:
                self._gathered += 1
            self._flush_if_full()
            self._spend(_PAGE_COST)

    def finish(self) -> list[str]:
        """The zap ends: what is pending is flushed. Every flush, in words."""
        if self._shared_dirty and self._behaviour.frees_tables:
            self._flushes.append("TLB flush before the page table's lock is let go: shared pages were dirty")
        if self._pending:
            self._flush("at the end")
        return self._flushes

    @property
    def _budget(self) -> int:
        return self._behaviour.zap_work_pages * _PAGE_COST

    def _spend(self, cost: int) -> None:
        if not self._budget:
            return
        self._work -= cost
        if self._work <= 0:
            if self._pending:
                self._flush("as the budget of the loop is spent (zap_work)")
            self._work = self._budget

    def _flush_if_full(self) -> None:
        if self._gathered >= self._behaviour.gather_pages:
            self._flush("as the gather is full")

    def _flush(self, why: str) -> None:
        whole = not self._behaviour.flushes_ranges or self._pending > _SINGLE_FLUSH_PAGES
        how = "the whole address space" if whole else f"{self._pending} pages one by one"
        self._flushes.append(f"TLB flush after {self._met} entries, {why}: {how}; {self._gathered} frames let go")
        self._gathered = self._pending = 0
