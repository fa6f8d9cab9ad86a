"""When the TLB is flushed while pages are zapped: the batches of an mmu_gather, and the budget of 2.6.32.

Kernel:
    2.6.32: include/asm-generic/tlb.h FREE_PTE_NR (506 pages on SMP), mm/memory.c zap_work (ZAP_BLOCK_SIZE, 1,024 pages
    without preemption; an entry that is none costs a byte, any other a page); a flush is of the whole address space.
    6.18: mm/mmu_gather.c, 8 pages on the stack and up to 19 batches of 510; x86 flushes up to 33 entries one by one.
"""

from __future__ import annotations

from dontneed.model.space.entries import DIRTY, FILE, HUGE, KIND, LEAF_PAGES, MAPPED, SHMEM

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.model.versions import Behaviour

_PAGE_COST = 4096
_SINGLE_FLUSHES = 33


class Gather:
    """One mmu_gather: told of the entries in ascending order, it says when the TLB is flushed."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._budget = behaviour.zap_work_pages * _PAGE_COST
        self._work = self._budget
        self._page = 0  # how far it has come
        self._pending: tuple[int, int] | None = None  # pages whose entries the TLB may still hold
        self._pending_small = False
        self._gathered = 0  # frames that wait for the flush
        self._dirty_files = False
        self._flushes: list[str] = []

    def pass_over(self, pages: int, entries: int) -> None:
        """Come past pages without an entry.

        Args:
            pages: how many.
            entries: how many empty entries that are: one of an upper table stands for many pages.
        """
        self._page += pages
        self._spend(entries)

    def keep(self, pages: int) -> None:
        """Come past entries that stay."""
        self._page += pages
        self._spend(pages * _PAGE_COST)

    def take(self, pages: int, code: int) -> None:
        """Take entries away.

        Args:
            pages: how many, alike.
            code: of the modelled entry.
        """
        if code & DIRTY and code & KIND in (FILE, SHMEM):
            self._dirty_files = True
        if code & HUGE:
            for _ in range(pages // LEAF_PAGES):
                self._take(LEAF_PAGES, frames=1, small=False)
            return
        holds_frames = code & KIND in MAPPED
        while pages:
            taken = min(pages, self._before_a_flush(holds_frames=holds_frames))
            self._take(taken, frames=taken if holds_frames else 0, small=True)
            pages -= taken

    def end_table(self) -> None:
        """The lock of a page table is let go."""
        if self._dirty_files and self._behaviour.flushes_dirty_early:
            self._flush("as it met dirty pages of files")
        self._dirty_files = False

    def finish(self) -> list[str]:
        """The zap ends: what is pending is flushed. Every flush, in words."""
        self._flush("at the end")
        return self._flushes

    def _before_a_flush(self, *, holds_frames: bool) -> int:
        """How many pages can be taken until it is time for a flush, one at least."""
        limits = []
        if holds_frames:
            limits.append(self._behaviour.gather_pages - self._gathered)
        if self._budget:
            limits.append(-(-self._work // _PAGE_COST))
        return max(1, min(limits)) if limits else LEAF_PAGES

    def _take(self, pages: int, *, frames: int, small: bool) -> None:
        begin = self._pending[0] if self._pending else self._page
        self._page += pages
        self._pending = begin, self._page
        self._pending_small |= small
        self._gathered += frames
        if self._gathered >= self._behaviour.gather_pages:
            self._flush("as the gather is full")
        self._spend(pages * _PAGE_COST if small else _PAGE_COST)

    def _spend(self, cost: int) -> None:
        if not self._budget:
            return
        self._work -= cost
        if self._work <= 0:
            self._flush("as zap_work is spent")
            self._work = self._budget

    def _flush(self, why: str) -> None:
        if self._pending is None:
            return
        after = f"TLB flush after {counted(self._page, 'page')}, {why}"
        self._flushes.append(f"{after}: {self._flushed()}; {self._let_go()}")
        self._pending, self._pending_small, self._gathered = None, False, 0

    def _flushed(self) -> str:
        begin, end = self._pending or (0, 0)
        stride = 1 if self._pending_small else LEAF_PAGES
        invalidations = (end - begin) // stride
        if not self._behaviour.flushes_ranges or invalidations > _SINGLE_FLUSHES:
            return "the whole address space"
        return f"{counted(invalidations, 'huge page' if stride > 1 else 'page')}, one by one"

    def _let_go(self) -> str:
        unit = "frame" if self._pending_small or not self._gathered else "huge page"
        return f"{counted(self._gathered, unit)} let go"


def counted(count: int, noun: str) -> str:
    """A count of things in words: 1 page, 2 pages."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
