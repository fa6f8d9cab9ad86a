"""How a kernel behaves where kernels differ, put together from the steps that led to it (`steps`).

2.6.32 was read and never run: whatever is shown of it says so. A version of two numbers is a series, and stands for
the newest of its stable releases: what a stable release took back from a later kernel, 6.18 has and 6.18.15 has not.
"""

from __future__ import annotations

from functools import cache
from math import inf

from dontneed.errors import UsageError
from dontneed.model.steps import STEPS
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
        huge_advice_for_all: HUGEPAGE and NOHUGEPAGE take any mapping; before, EINVAL for what is shared, of hugetlb, or
            the kernel's own.
        huge_zero_page: a read fault maps a huge zero page.
        huge_outlives: a huge page split in one page table stays one folio; before, it was split for good and the
            discarded part freed at once.
        huge_zero_becomes_huge: a write to the huge zero page makes it a huge page; before and between: small pages.
        huge_copied_whole: a write to a huge page that is shared copies all of it; since: splits, and copies a page.
        split_finds_zeros: of a huge page that is split for good, the pages that hold but zeros become the zero page.
        reuses_parts: when a process writes to a part of a huge page that it alone maps still, and once did not:
            "unshared": no part is shared; "never": it copies; "own": all parts are its own.
        protects_parts_together: what mprotect changes of a huge page is dirty if one of its parts is.
        maps_whole_folio: a fault of a file maps all that a huge page of its cache has for the page table.
        collapse_needs_writable: small pages become a huge one only if one of them can be written.
        collapses_read_only: and if others cannot.
        collapses_zero_page, collapses_swapped, collapses_shared: khugepaged takes those too.
        hugetlb_restores: a discard of hugetlb memory reserves what it frees for its mapping again.
        hugetlb_faults_in_child: fork leaves out hugetlb memory that has no private page.
        dumps_hugetlb: DODUMP takes hugetlb memory.
        dofork_of_special: DOFORK takes the kernel's own memory and hugetlb, unless it is IO.
        secret_is_locked: memfd_secret(2) is locked in memory, and says so.
        ring_by_number: the buffer of a driver is mapped by the numbers of its frames; before, page by page.
        collapse_within: COLLAPSE of less than a huge page is a success; before, EINVAL.
        populate_ends_at_holes: POPULATE takes the range as one; before, mapping by mapping as all advice does.
        lock_on_fault_looks: MLOCK_ONFAULT answers ENOMEM for what nobody may touch.
        mprotect_gives_leave: mprotect makes writable at once what a write would only find to be its own.
        fault_around: pages that a read fault of a file may map besides, at most 16 in all.
        stack_gap_pages: kept free below a stack that grows.
        anon_vma_chains: a child's mapping has an anon_vma of its own that remembers its parent's.
        merge_lends_anon_vma: a mapping with an anon_vma merges with a neighbour that has none; before, only the one
            without, when it is the one that changes.
        uncharges_read_only: mprotect takes back the charge of memory that was never touched.
        zap_ignores_random: zapping a young page of a RANDOM mapping does not mark it referenced.
        heap_is_apart: the heap merges with nothing below its start, and does not shrink where it is no longer mapped.
        remap_looks_first: mremap asks for a mapping before anything else, and moves hugetlb memory; before, a shrink
            needed no mapping, and hugetlb memory could only shrink.
        remap_checks_first: it checks all before it unmaps what is in the way of a fixed move.
        remap_many: a move without a change of size takes all mappings of its range.
        remap_leaves_source: MREMAP_DONTUNMAP.
        remap_leaves_files: of all memory, not just of what is private and anonymous.
        remap_leaves_part: and what it leaves is apart: it alone is unlocked, and what moves does not merge with it.
        remap_counts_locked: and VmLck grows by what it moves, though as much is locked no more.
        remap_renews_private: a length of 0 makes a fresh mapping of private memory; since, EINVAL.
        remap_merges_above: what grows in place merges with the mapping that it meets.
        remap_moves_tables: page tables that move whole are handed over.
        remap_realigns: the first table too if the mapping begins within it, and nothing else is there.
        seals: mseal.
        seal_loses_place: a mapping does not merge with the sealed one below that has just grown over its beginning.
        vector: process_madvise.
        vector_willneed: it takes WILLNEED.
        vector_any_of_own: and any advice for the caller's own memory.
        vector_refuses_unknown: it looks first whether there is such an advice; before, the first range would tell.
        vector_counts_done: after some ranges it answers with their bytes, not with the error that ended it.
        vector_needs_nice, vector_needs_nice_for_own: CAP_SYS_NICE is needed: for others' memory, for the caller's own.
        rss_by_kind: RssAnon, RssFile, RssShmem; before shared memory counts as file.
        swap_in_past_cache: the only entry of a slot on a disk in memory takes its page without the swap cache.
        counts_references: the last who maps a frame that was shared copies it if anybody else holds it, such as who is
            to put fresh frames on a list.
        exclusive_frames: a frame and a swap entry know that they are one process's alone: what a read brings back is
            writable at once; before, the first write finds it out.
        counts_swap: VmSwap.
        counts_upper_tables: VmPTE includes tables of tables.
        smaps_counts_zero_page: smaps counts the zero page into Rss.
        pagemap_file, pagemap_exclusive, pagemap_guard: those bits of pagemap.
        pagemap_page_shift: bits 55 to 60 hold the page size instead.
        pagemap_huge_zero_file: pagemap says of the huge zero page that it is of a file.
        pagemap_hugetlb: pagemap shows hugetlb memory; before, it is never present there.
        smaps_dirty_by_page: smaps counts a page as dirty whose entry is clean; before, it asks the entry alone.
        smaps_swap_exact: smaps counts as swapped only what is; before, whatever is neither present nor none.
        smaps_shared_swap: and shared memory that is in swap.
        smaps_sizes_first: smaps prints the sizes of pages right behind that of the mapping; before, behind Swap.
        small_stacks: what is mapped as a stack (MAP_STACK) gets no huge pages.
        vsyscall_execute_only: the vsyscall page cannot be read.
        vvar, vvar_clocks_apart: processes have a [vvar], and a [vvar_vclock] beside it.
        vvar_by_number: mapped by the numbers of its frames (VM_PFNMAP).
        vvar_is_io: like a device's memory (VM_IO).
        frame_flag_bits: how many bits /proc/kpageflags knows.
        gather_pages: pages gathered before the TLB is flushed.
        gathers_whole_calls: one gather serves a whole call of madvise; before, each mapping had its own.
        flushes_ranges: the TLB is flushed page by page where few pages are concerned; before: whole.
        flushes_dirty_early: it is flushed with every page table that had dirty pages of files.
        lines_to_come: lines of smaps and status that only later kernels print.
        p4d: zap_p4d_range() is on the way, with four levels too.
        zaps_single_mappings: DONTNEED has a way of its own for one mapping; before, zap_page_range() served several.
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
    huge_advice_for_all: bool = False
    huge_zero_page: bool = False
    huge_outlives: bool = False
    huge_zero_becomes_huge: bool = True
    huge_copied_whole: bool = True
    split_finds_zeros: bool = False
    reuses_parts: str = "unshared"
    protects_parts_together: bool = False
    maps_whole_folio: bool = False
    collapse_needs_writable: bool = True
    collapses_read_only: bool = False
    collapses_zero_page: bool = False
    collapses_swapped: bool = False
    collapses_shared: bool = False
    hugetlb_restores: bool = False
    hugetlb_faults_in_child: bool = False
    dumps_hugetlb: bool = False
    dofork_of_special: bool = True
    secret_is_locked: bool = True
    ring_by_number: bool = False
    collapse_within: bool = False
    populate_ends_at_holes: bool = False
    lock_on_fault_looks: bool = True
    mprotect_gives_leave: bool = False
    fault_around: int = 1
    stack_gap_pages: int = 1
    anon_vma_chains: bool = False
    merge_lends_anon_vma: bool = True
    uncharges_read_only: bool = False
    zap_ignores_random: bool = False
    heap_is_apart: bool = False
    remap_looks_first: bool = False
    remap_checks_first: bool = False
    remap_many: bool = False
    remap_leaves_source: bool = False
    remap_leaves_files: bool = False
    remap_leaves_part: bool = False
    remap_counts_locked: bool = False
    remap_renews_private: bool = True
    remap_merges_above: bool = False
    remap_moves_tables: bool = False
    remap_realigns: bool = False
    seals: bool = False
    seal_loses_place: bool = False
    vector: bool = False
    vector_willneed: bool = False
    vector_any_of_own: bool = False
    vector_refuses_unknown: bool = False
    vector_counts_done: bool = False
    vector_needs_nice: bool = False
    vector_needs_nice_for_own: bool = False
    rss_by_kind: bool = False
    swap_in_past_cache: bool = False
    counts_references: bool = False
    exclusive_frames: bool = False
    counts_swap: bool = False
    counts_upper_tables: bool = False
    smaps_counts_zero_page: bool = True
    pagemap_file: bool = False
    pagemap_exclusive: bool = False
    pagemap_guard: bool = False
    pagemap_page_shift: bool = True
    pagemap_huge_zero_file: bool = False
    pagemap_hugetlb: bool = False
    smaps_dirty_by_page: bool = False
    smaps_swap_exact: bool = False
    smaps_shared_swap: bool = False
    smaps_sizes_first: bool = False
    small_stacks: bool = False
    vsyscall_execute_only: bool = False
    vvar: bool = False
    vvar_clocks_apart: bool = False
    vvar_by_number: bool = True
    vvar_is_io: bool = True
    frame_flag_bits: int = 22
    gather_pages: int = 506
    gathers_whole_calls: bool = False
    flushes_ranges: bool = False
    flushes_dirty_early: bool = False
    p4d: bool = False
    zaps_single_mappings: bool = False
    zap_work_pages: int = 1024
    lines_to_come: frozenset[str] = frozenset()

    @property
    def release(self) -> str:
        """The version as people write it."""
        return ".".join(map(str, self.version))

    def knows(self, advice: Advice) -> bool:
        """Whether this kernel has the advice."""
        return self.version >= numbers_of(advice.since)

    def prints(self, line: str) -> bool:
        """Whether smaps or status of this kernel has the line."""
        return line not in self.lines_to_come


OLDEST = "2.6.32"
NEWEST = "6.18"
"""The newest that is offered unasked, and the best known."""
LAST = "7.3"
"""The last that was measured; what came later is not known."""

_FEWEST_NUMBERS, _MOST_NUMBERS = 2, 3
_MOST_DIGITS = 9
"""Of a number in a version; Python turns one of more than 4,300 away."""


@cache
def behaviour_at(version: str) -> Behaviour:
    """How Linux `version` behaves, by the steps up to it.

    Args:
        version: as "6.18.15", or "6.18" for the newest of that series; what follows the third number is ignored.
    Raises:
        UsageError: it is no version, or older than the oldest step.
    """
    numbers = numbers_of(version)
    if numbers < numbers_of(OLDEST):
        msg = f"there is no model of Linux {version}"
        raise UsageError(msg, hint=f"the oldest is {OLDEST}, the last {LAST}")
    changes: dict[str, Any] = {}
    to_come: set[str] = set()
    reached = numbers if len(numbers) == _MOST_NUMBERS else (*numbers, inf)
    for step in STEPS:
        if numbers_of(step.since) <= reached:
            changes.update(step.changes)
        else:
            to_come.update(step.lines)
    return Behaviour(version=numbers, lines_to_come=frozenset(to_come), **changes)


def is_modelled(version: str) -> bool:
    """Whether a version is one that the model takes: from `OLDEST` to the last stable release of `LAST`."""
    try:
        numbers = numbers_of(version)
    except UsageError:
        return False
    return numbers_of(OLDEST) <= numbers and numbers[:_FEWEST_NUMBERS] <= numbers_of(LAST)


def modelled_version(release: str) -> str:
    """The version whose model tells of a kernel: its own, or `LAST` for what is newer."""
    return min(LAST, ".".join(map(str, numbers_of(release))), key=numbers_of)


def numbers_of(version: str) -> tuple[int, ...]:
    """The numbers of a version, three at most, to compare with others: of `6.18.44-cloud` 6, 18 and 44.

    Raises:
        UsageError: it does not begin with numbers.
    """
    numbers: list[int] = []
    for part in version.partition("-")[0].split(".")[:_MOST_NUMBERS]:
        if not (part.isascii() and part.isdigit() and len(part) <= _MOST_DIGITS):
            break
        numbers.append(int(part))
    if len(numbers) < _FEWEST_NUMBERS:
        msg = f"{version!r} is no version of Linux"
        raise UsageError(msg, hint=f"as in {OLDEST} or {NEWEST}")
    return tuple(numbers)
