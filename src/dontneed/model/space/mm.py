"""An address space (`struct mm_struct`): its mappings, its page table, its counters.

Kernel:
    include/linux/mm_types.h; the RSS counters are of 2.6.34 and, with shared memory apart, of 4.5.
"""

from __future__ import annotations

from dontneed.model.space.entries import ANON, FILE, SHMEM, SWAP
from dontneed.model.space.page_table import PageTable
from dontneed.model.space.vma import LOCKED
from dontneed.model.space.vmas import Vmas

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.model.system import System

PAGE_SHIFT = 12
TOP = 1 << 35
"""The first page behind what a process can map with four levels, and with five unless it asks for more (47 bits)."""
TOP_BY_LEVELS = {4: TOP, 5: 1 << 44}


class Mm:
    """The memory of one process.

    Attributes:
        system: the machine it is on.
        vmas: its mappings.
        table: its page table.
        top: the first page behind what it can map.
        resident: pages by kind of entry: ANON, FILE, SHMEM, SWAP. What RSS and swap are made of.
        hugetlb_pages: pages of the hugetlb pool that are mapped; in no RSS.
        hugetlb_reservations: slot of 512 pages → whether the page of that pool reserved for it is still to come.
        hugetlb_lost: slots whose page went to the process that had reserved it.
        peak_pages: the RSS that was highest, as of the last time it fell (hiwater_rss).
        minor_faults, major_faults: taken.
        brk_first, brk: the heap's first page, and the byte address of its end.
        lock_future: MCL_FUTURE.
        huge_disabled: no huge pages here, whatever is asked for (PR_SET_THP_DISABLE).
        locked_pages_lost: what VmLck counts for good, though it is locked no more (mremap with DONTUNMAP).
    """

    def __init__(self, system: System) -> None:
        self.system = system
        self.vmas = Vmas(lends_anon_vma=system.behaviour.merge_lends_anon_vma)
        self.table = PageTable(system.page_table_levels)
        self.top = TOP_BY_LEVELS[system.page_table_levels]
        self.resident = {ANON: 0, FILE: 0, SHMEM: 0, SWAP: 0}
        self.hugetlb_pages = 0
        self.hugetlb_reservations: dict[int, bool] = {}
        self.hugetlb_lost: set[int] = set()
        self.peak_pages = 0
        self.minor_faults = 0
        self.major_faults = 0
        self.brk_first = 0
        self.brk = 0
        self.lock_future = False
        self.huge_disabled = False
        self.locked_pages_lost = 0

    @property
    def rss_pages(self) -> int:
        """What VmRSS counts."""
        resident = self.resident
        return resident[ANON] + resident[FILE] + resident[SHMEM]

    @property
    def size_pages(self) -> int:
        """What VmSize counts."""
        return sum(vma.pages for vma in self.vmas)

    @property
    def locked_pages(self) -> int:
        """What VmLck counts."""
        return self.locked_pages_lost + sum(vma.pages for vma in self.vmas if vma.flags & LOCKED)

    def note_peak(self) -> None:
        """Remember the RSS before it falls (update_hiwater_rss)."""
        rss = self.rss_pages
        self.peak_pages = max(rss, self.peak_pages)

    def bounds_of(self, first: int, last: int) -> tuple[int, int]:
        """The end of the mapping below `first`, and the beginning of the one from `last` on: what tables must stay."""
        below = self.vmas.before(first)
        above = self.vmas.find_from(last)
        return below.last if below else 0, above.first if above else self.top

    def copy_settings(self) -> Mm:
        """A fresh address space that is set as this one is, and maps nothing."""
        child = Mm(self.system)
        child.brk_first, child.brk = self.brk_first, self.brk
        child.huge_disabled = self.huge_disabled
        return child
