"""What calls that are under way have still to take away: the kernel counts page table by page table.

The model takes all pages away at once. Other threads go on meanwhile, and what is counted for them includes what is
still to be taken. How much that is, the model knows of each page table; when the kernel is done with one, it counts.

Kernel:
    mm/memory.c zap_pte_range(): add_mm_rss_vec() behind each page table, by counter; zap_huge_pmd().
"""

from __future__ import annotations

from dontneed.model.space.entries import ANON, FILE, KIND, LEAF_PAGES, SHMEM
from dontneed.model.space.mm import PAGE_SHIFT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from dontneed.model.space.leaf import Run

_IN_ORDER = (FILE, ANON, SHMEM)
"""As their counters are numbered."""


class Steps:
    """The steps of calls under way.

    Attributes:
        bytes_to_come: what they have still to take away, all of them.
    """

    def __init__(self) -> None:
        self.bytes_to_come = 0
        self._of_threads: dict[int, list[int]] = {}

    def begin(self, thread: int, runs: Iterable[Run], taken_pages: int) -> None:
        """A call of a thread has taken pages away in the model, and the kernel has counted its first step.

        Args:
            thread: whose call.
            runs: what was in RSS before.
            taken_pages: how many the model took: if not all, there is no telling them apart.
        """
        tables: dict[tuple[int, int], int] = {}
        for start, end, code, _ in runs:
            place = start // LEAF_PAGES, _IN_ORDER.index(code & KIND)
            tables[place] = tables.get(place, 0) + end - start
        if len(tables) > 1 and sum(tables.values()) == taken_pages:
            steps = [tables[place] << PAGE_SHIFT for place in sorted(tables, reverse=True)]
            steps.pop()
            self._of_threads[thread] = steps
            self.bytes_to_come += sum(steps)

    def count(self, thread: int) -> None:
        """The kernel counts for a thread: one step more is done."""
        steps = self._of_threads.get(thread)
        if steps:
            self.bytes_to_come -= steps.pop()

    def end(self, thread: int) -> None:
        """The thread's call is over."""
        if thread in self._of_threads:
            self.bytes_to_come -= sum(self._of_threads.pop(thread))

    def clear(self) -> None:
        """All of them are over."""
        self._of_threads.clear()
        self.bytes_to_come = 0
