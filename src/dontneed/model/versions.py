"""What differs between kernels, as steps from 2.6.32 to 6.18: what changed, since when, and how that is known.

2.6.32 was read and never run: whatever is shown of it says so.
"""

from __future__ import annotations

from dontneed.errors import UsageError
from dontneed.records import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from dontneed.abi.advice import Advice


class Behaviour(Record):
    """How a kernel behaves, where kernels differ. The defaults are 2.6.32's.

    Attributes:
        version: of the kernel, as numbers.
        willneed_anonymous: WILLNEED of anonymous memory reads from swap; before: EBADF.
        free_keeps_without_swap: FREE is lazy also where there is no swap; before it acts as DONTNEED there.
        remove_by_hole: REMOVE punches holes wherever the file system can; before: tmpfs only, else ENOSYS.
        remove_may_write: REMOVE is content with a mapping that could be made writable.
        hugetlb_dontneed: DONTNEED takes hugetlb memory.
        hugetlb_end_down: and rounds its end down to a huge page (before: up).
        guard_files: guard markers in file mappings too.
        guard_is_sticky: a mapping that held a guard says so for good, and is copied at fork.
        seal_per_mapping: seals are looked for mapping by mapping; before: in the whole range first.
        nonlinear: remap_file_pages makes file entries that survive a discard.
        frees_tables: a discard of all that a page table maps frees the table (PT_RECLAIM).
        huge_pages: transparent huge pages.
        huge_zero_page: a read fault maps a huge zero page.
        huge_outlives: a huge page split in one page table stays one folio; before, it was split for good and the
            discarded part freed at once.
        fault_around: pages that a read fault of a file may map besides, at most 16 in all.
        stack_gap_pages: kept free below a stack that grows.
        anon_vma_chains: a child's mapping has an anon_vma of its own that remembers its parent's.
        uncharges_read_only: mprotect takes back the charge of memory that was never touched.
        zap_ignores_random: zapping a young page of a RANDOM mapping does not mark it referenced.
        rss_by_kind: RssAnon, RssFile, RssShmem; before shared memory counts as file.
        counts_swap: VmSwap.
        counts_upper_tables: VmPTE includes tables of tables.
        smaps_counts_zero_page: smaps counts the zero page into Rss.
        smaps_flags: the VmFlags line.
        pagemap_file, pagemap_exclusive, pagemap_guard: those bits of pagemap.
        pagemap_page_shift: bits 55 to 60 hold the page size instead.
        gather_pages: pages gathered before the TLB is flushed.
        flushes_ranges: the TLB is flushed page by page where few pages are concerned; before: whole.
        zap_work_pages: pages zapped before the CPU is offered to others with a flush; 0: no such budget.
    """

    version: tuple[int, ...]
    willneed_anonymous: bool = False
    free_keeps_without_swap: bool = False
    remove_by_hole: bool = False
    remove_may_write: bool = False
    hugetlb_dontneed: bool = False
    hugetlb_end_down: bool = False
    guard_files: bool = False
    guard_is_sticky: bool = False
    seal_per_mapping: bool = False
    nonlinear: bool = True
    frees_tables: bool = False
    huge_pages: bool = False
    huge_zero_page: bool = False
    huge_outlives: bool = False
    fault_around: int = 1
    stack_gap_pages: int = 1
    anon_vma_chains: bool = False
    uncharges_read_only: bool = False
    zap_ignores_random: bool = False
    rss_by_kind: bool = False
    counts_swap: bool = False
    counts_upper_tables: bool = False
    smaps_counts_zero_page: bool = True
    smaps_flags: bool = False
    pagemap_file: bool = False
    pagemap_exclusive: bool = False
    pagemap_guard: bool = False
    pagemap_page_shift: bool = True
    gather_pages: int = 506
    flushes_ranges: bool = False
    zap_work_pages: int = 1024

    @property
    def release(self) -> str:
        """The version as people write it."""
        return ".".join(map(str, self.version))

    def knows(self, advice: Advice) -> bool:
        """Whether this kernel has the advice."""
        return self.version >= _numbers(advice.since)


class Step(Record):
    """Something that changed.

    Attributes:
        since: the first version with it.
        what: in one line.
        source: how it is known: a commit, a file read, a measurement, or `memory` for what was not verified.
        changes: the fields of `Behaviour` that it sets.
    """

    since: str
    what: str
    source: str
    changes: dict[str, Any]


OLDEST = "2.6.32"
NEWEST = "6.18"

STEPS: tuple[Step, ...] = (
    Step("2.6.34", "VmSwap; a child's anon_vma is its own", "memory", {"counts_swap": True, "anon_vma_chains": True}),
    Step("2.6.38", "transparent huge pages", "memory", {"huge_pages": True}),
    Step("3.0", "mmu_gather holds up to 10,000 pages", "memory", {"gather_pages": 9698, "zap_work_pages": 0}),
    Step("3.5", "REMOVE by fallocate; pagemap's file bit", "memory", {"remove_by_hole": True, "pagemap_file": True}),
    Step("3.7", "the TLB is flushed by range", "memory", {"flushes_ranges": True}),
    Step("3.8", "VmFlags; the huge zero page", "memory", {"smaps_flags": True, "huge_zero_page": True}),
    Step("3.9", "WILLNEED reads from swap", "1998cc048901", {"willneed_anonymous": True}),
    Step("3.15", "fault-around", "memory", {"fault_around": 16}),
    Step("4.0", "remap_file_pages is emulated", "memory", {"nonlinear": False}),
    Step(
        "4.2",
        "pagemap's exclusive bit, page shift gone",
        "memory",
        {"pagemap_exclusive": True, "pagemap_page_shift": False, "smaps_counts_zero_page": False},
    ),
    Step("4.5", "RSS by kind; a huge page outlives its split", "memory", {"rss_by_kind": True, "huge_outlives": True}),
    Step("4.12", "FREE is lazy without swap", "madvise(2)", {"free_keeps_without_swap": True}),
    Step("4.13", "256 pages stay free below a stack", "memory", {"stack_gap_pages": 256}),
    Step("4.15", "VmPTE counts all levels", "memory", {"counts_upper_tables": True}),
    Step("5.18", "DONTNEED of hugetlb memory", "semantics", {"hugetlb_dontneed": True}),
    Step("6.1", "its end is rounded down", "mm/madvise.c 6.1", {"hugetlb_end_down": True}),
    Step("6.3", "RANDOM hides use", "8788f678148", {"zap_ignores_random": True}),
    Step("6.7", "REMOVE where writing may be allowed", "mm/madvise.c 6.7", {"remove_may_write": True}),
    Step("6.12", "seals mapping by mapping", "mm/madvise.c 6.12", {"seal_per_mapping": True}),
    Step("6.14", "emptied page tables are freed", "measured", {"frees_tables": True}),
    Step(
        "6.15", "guards in file mappings; their pagemap bit", "measured", {"guard_files": True, "pagemap_guard": True}
    ),
    Step(
        "6.18",
        "guards are sticky; mprotect uncharges",
        "measured",
        {"guard_is_sticky": True, "uncharges_read_only": True},
    ),
)


def behaviour_at(version: str) -> Behaviour:
    """How Linux `version` behaves, by the steps up to it.

    Args:
        version: as "6.18"; what follows the first three numbers is ignored.
    Raises:
        UsageError: it is no version, or older than the oldest step.
    """
    numbers = _numbers(version)
    if numbers < _numbers(OLDEST):
        msg = f"there is no model of Linux {version}"
        raise UsageError(msg, hint=f"the oldest is {OLDEST}, the newest {NEWEST}")
    changes: dict[str, Any] = {}
    for step in STEPS:
        if _numbers(step.since) <= numbers:
            changes.update(step.changes)
    return Behaviour(version=numbers, **changes)


def _numbers(version: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in version.split(".")[:3])
    except ValueError:
        msg = f"{version!r} is no version of Linux"
        raise UsageError(msg, hint=f"as in {OLDEST} or {NEWEST}") from None
