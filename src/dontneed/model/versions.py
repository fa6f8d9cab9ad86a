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
        huge_zero_becomes_huge: a write to the huge zero page makes it a huge page; before and between: small pages.
        huge_copied_whole: a write to a huge page that is shared copies all of it; since: splits, and copies a page.
        reuses_parts: when a process writes to a part of a huge page that it alone maps still, and once did not:
            "unshared": no part is shared; "never": it copies; "own": all parts are its own.
        maps_whole_folio: a fault of a file maps all that a huge page of its cache has for the page table.
        collapse_needs_writable: small pages become a huge one only if one of them can be written.
        collapses_read_only: and if others cannot.
        collapses_zero_page, collapses_swapped, collapses_shared: khugepaged takes those too.
        hugetlb_restores: a discard of hugetlb memory reserves what it frees for its mapping again.
        hugetlb_faults_in_child: fork leaves out hugetlb memory that has no private page.
        fault_around: pages that a read fault of a file may map besides, at most 16 in all.
        stack_gap_pages: kept free below a stack that grows.
        anon_vma_chains: a child's mapping has an anon_vma of its own that remembers its parent's.
        uncharges_read_only: mprotect takes back the charge of memory that was never touched.
        zap_ignores_random: zapping a young page of a RANDOM mapping does not mark it referenced.
        heap_is_apart: the heap merges with nothing below its start, and does not shrink where it is no longer mapped.
        remap_looks_first: mremap asks for a mapping before anything else, and moves hugetlb memory; before, a shrink
            needed no mapping, and hugetlb memory could only shrink.
        remap_checks_first: it checks all before it unmaps what is in the way of a fixed move.
        remap_many: a move without a change of size takes all mappings of its range.
        remap_leaves_source: MREMAP_DONTUNMAP.
        remap_leaves_files: of all memory, not just of what is private and anonymous.
        remap_renews_private: a length of 0 makes a fresh mapping of private memory; since, EINVAL.
        remap_merges_above: what grows in place merges with the mapping that it meets.
        remap_moves_tables: page tables that move whole are handed over.
        remap_realigns: the first table too if the mapping begins within it, and nothing else is there.
        seals: mseal.
        vector: process_madvise.
        vector_willneed: it takes WILLNEED.
        vector_any_of_own: and any advice for the caller's own memory.
        vector_counts_done: after some ranges it answers with their bytes, not with the error that ended it.
        vector_needs_nice, vector_needs_nice_for_own: CAP_SYS_NICE is needed: for others' memory, for the caller's own.
        rss_by_kind: RssAnon, RssFile, RssShmem; before shared memory counts as file.
        swap_in_past_cache: the only entry of a slot on a disk in memory takes its page without the swap cache.
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
    huge_zero_page: bool = False
    huge_outlives: bool = False
    huge_zero_becomes_huge: bool = True
    huge_copied_whole: bool = True
    reuses_parts: str = "unshared"
    maps_whole_folio: bool = False
    collapse_needs_writable: bool = True
    collapses_read_only: bool = False
    collapses_zero_page: bool = False
    collapses_swapped: bool = False
    collapses_shared: bool = False
    hugetlb_restores: bool = False
    hugetlb_faults_in_child: bool = False
    fault_around: int = 1
    stack_gap_pages: int = 1
    anon_vma_chains: bool = False
    uncharges_read_only: bool = False
    zap_ignores_random: bool = False
    heap_is_apart: bool = False
    remap_looks_first: bool = False
    remap_checks_first: bool = False
    remap_many: bool = False
    remap_leaves_source: bool = False
    remap_leaves_files: bool = False
    remap_renews_private: bool = True
    remap_merges_above: bool = False
    remap_moves_tables: bool = False
    remap_realigns: bool = False
    seals: bool = False
    vector: bool = False
    vector_willneed: bool = False
    vector_any_of_own: bool = False
    vector_counts_done: bool = False
    vector_needs_nice: bool = False
    vector_needs_nice_for_own: bool = False
    rss_by_kind: bool = False
    swap_in_past_cache: bool = False
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


class Step(Record):
    """Something that changed.

    Attributes:
        since: the first version with it.
        what: in one line.
        source: how it is known: a commit, a file read, a measurement, or `memory` for what was not verified.
        changes: the fields of `Behaviour` that it sets.
        lines: the lines of smaps and status that it adds.
    """

    since: str
    what: str
    source: str
    changes: dict[str, Any]
    lines: tuple[str, ...] = ()


OLDEST = "2.6.32"
NEWEST = "6.18"

_FEWEST_NUMBERS = 2

STEPS: tuple[Step, ...] = (
    Step("2.6.33", "pagemap shows hugetlb memory", "5dc37642cbce", {"pagemap_hugetlb": True}),
    Step(
        "2.6.34",
        "VmSwap; a child's anon_vma is its own",
        "memory",
        {"counts_swap": True, "anon_vma_chains": True},
        ("VmSwap",),
    ),
    Step(
        "2.6.37",
        "smaps leaves the zero page out and counts anonymous memory",
        "b40d4f84becd, memory",
        {"smaps_counts_zero_page": False, "smaps_dirty_by_page": True},
        ("Anonymous",),
    ),
    Step("2.6.38", "transparent huge pages", "memory", {"huge_pages": True}, ("Locked",)),
    Step("2.6.39", "smaps counts huge pages", "4031a219d891, memory", {}, ("AnonHugePages",)),
    Step("3.0", "mmu_gather holds up to 10,000 pages", "memory", {"gather_pages": 9698, "zap_work_pages": 0}),
    Step("3.2", "VmPin", "bc3e53f682d9, memory", {}, ("VmPin",)),
    Step("3.4", "kpageflags tells huge pages", "e873c49fbcac, memory", {"frame_flag_bits": 23}),
    Step("3.5", "REMOVE by fallocate; pagemap's file bit", "memory", {"remove_by_hole": True, "pagemap_file": True}),
    Step("3.5", "smaps tells swap from migration", "b1d4d9e0cbd0, memory", {"smaps_swap_exact": True}),
    Step("3.7", "the TLB is flushed by range", "memory", {"flushes_ranges": True}),
    Step("3.8", "VmFlags; the huge zero page", "memory", {"huge_zero_page": True}, ("VmFlags",)),
    Step("3.9", "WILLNEED reads from swap", "1998cc048901", {"willneed_anonymous": True}),
    Step("3.13", "NUMA groups", "memory", {}, ("Ngid",)),
    Step("3.15", "dirty pages of files force a flush", "1cf35d47712d, memory", {"flushes_dirty_early": True}),
    Step("3.15", "fault-around", "memory", {"fault_around": 16}),
    Step("3.16", "[vvar] is a mapping", "f40c330091c7, memory", {"vvar": True}),
    Step("4.0", "remap_file_pages is emulated", "memory", {"nonlinear": False}),
    Step("4.0", "kpageflags tells the zero page", "56873f43abdc, memory", {"frame_flag_bits": 25}),
    Step("4.0", "VmPMD, until VmPTE has it", "dc6c9a35b66b, memory", {}, ("VmPMD",)),
    Step("4.0", "huge pages of what is read-only in part", "10359213d05a, memory", {"collapses_read_only": True}),
    Step("4.1", "who a process is in its namespaces", "memory", {}, ("NStgid", "NSpid", "NSpgid", "NSsid")),
    Step("4.1", "huge pages of zero pages", "ca0984caa823, memory", {"collapses_zero_page": True}),
    Step(
        "4.2",
        "pagemap's exclusive bit, page shift gone",
        "memory",
        {"pagemap_exclusive": True, "pagemap_page_shift": False},
    ),
    Step("4.3", "swapped memory that is shared counts in part", "8334b96221ff, memory", {}, ("SwapPss",)),
    Step(
        "4.4",
        "hugetlb memory is counted",
        "25ee01a2fca0, memory",
        {},
        ("Shared_Hugetlb", "Private_Hugetlb", "HugetlbPages"),
    ),
    Step(
        "4.5",
        "RSS by kind; a huge page outlives its split",
        "memory",
        {"rss_by_kind": True, "huge_outlives": True, "smaps_shared_swap": True},
        ("RssAnon", "RssFile", "RssShmem"),
    ),
    Step("4.7", "Umask", "proc(5)", {}, ("Umask",)),
    Step("4.8", "huge pages of shared memory", "65c453778aea, memory", {}, ("ShmemPmdMapped",)),
    Step("4.8", "khugepaged brings pages back from swap", "8a966ed746d6, memory", {"collapses_swapped": True}),
    Step("4.12", "FREE is lazy without swap", "madvise(2)", {"free_keeps_without_swap": True}, ("LazyFree",)),
    Step("4.12", "a fifth level of page tables", "c2febafc6773, memory", {"p4d": True}),
    Step("4.13", "256 pages stay free below a stack", "memory", {"stack_gap_pages": 256}),
    Step(
        "4.14", "smaps prints page sizes first", "493b0e9d945f, memory; measured for 4.15", {"smaps_sizes_first": True}
    ),
    Step("4.14", "mremap renews no private memory", "dba58d3b8c50, memory", {"remap_renews_private": False}),
    Step("4.15", "VmPTE counts all levels", "measured", {"counts_upper_tables": True}, ("CoreDumping",)),
    Step("4.15", "zram is read past the swap cache", "0bcac06f27d7, aa8d22a11da9", {"swap_in_past_cache": True}),
    Step("4.18", "kpageflags tells page tables", "1d40a5ea01d5, memory", {"frame_flag_bits": 27}),
    Step("5.0", "where huge pages may be", "7635d9cbe832, measured", {}, ("THPeligible", "THP_enabled")),
    Step("5.0", "mremap hands page tables over", "2c91bd4a4e2e, memory", {"remap_moves_tables": True}),
    Step("5.3", "the vsyscall page is execute-only", "bd49e16e3339, memory", {"vsyscall_execute_only": True}),
    Step("5.4", "huge pages of files", "60fbf0ab5da1, memory", {}, ("FilePmdMapped",)),
    Step("5.7", "MREMAP_DONTUNMAP", "mremap(2)", {"remap_leaves_source": True}),
    Step(
        "5.8",
        "a write to a shared huge page splits its entry, and khugepaged takes shared pages",
        "3917c80280c9, memory",
        {"huge_copied_whole": False, "huge_zero_becomes_huge": False, "collapses_shared": True},
    ),
    Step("5.9", "parts of huge pages are copied, not reused", "09854ba94c6a, memory", {"reuses_parts": "never"}),
    Step("5.10", "process_madvise", "process_madvise(2)", {"vector": True}),
    Step(
        "5.12",
        "process_madvise needs CAP_SYS_NICE",
        "96cfe2c0fd23",
        {"vector_needs_nice": True, "vector_needs_nice_for_own": True},
    ),
    Step("5.13", "MREMAP_DONTUNMAP of files and shared memory", "mremap(2)", {"remap_leaves_files": True}),
    Step("5.15", "process_madvise takes WILLNEED", "memory", {"vector_willneed": True}),
    Step("5.16", "mremap moves hugetlb memory", "550a7d60bd5e, mm/mremap.c", {"remap_looks_first": True}),
    Step("5.18", "process_madvise counts what it did", "mm/madvise.c 6.1", {"vector_counts_done": True}),
    Step("5.18", "DONTNEED of hugetlb memory", "semantics", {"hugetlb_dontneed": True}),
    Step("5.19", "frames known to be one's own", "6c287605fd56, 1493a1913e34", {"exclusive_frames": True}),
    Step("6.0", "what of Pss is dirty", "30934843002e, memory", {}, ("Pss_Dirty",)),
    Step("6.0", "mremap merges what it grows", "ca3d76b0aa80, memory", {"remap_merges_above": True}),
    Step("6.0", "hugetlb memory is faulted in after a fork", "bcd51a3c679d, memory", {"hugetlb_faults_in_child": True}),
    Step("6.1", "brk knows its own mappings only", "mm/mmap.c 6.1, memory", {"heap_is_apart": True}),
    Step("6.1", "its end is rounded down", "mm/madvise.c 6.1", {"hugetlb_end_down": True}),
    Step("6.3", "zap_page_range is gone", "e9adcfecf572, memory", {"zaps_single_mappings": True}),
    Step("6.3", "RANDOM hides use", "8788f678148", {"zap_ignores_random": True}),
    Step("6.7", "no huge pages for MAP_STACK", "c4608d1bf7c6, memory; measured for 6.18", {"small_stacks": True}),
    Step("6.7", "REMOVE where writing may be allowed", "mm/madvise.c 6.7", {"remove_may_write": True}),
    Step("6.7", "mremap moves first tables whole", "memory", {"remap_realigns": True}),
    Step("6.5", "Kthread, untag_mask", "measured", {}, ("Kthread", "untag_mask")),
    Step("6.8", "smaps counts merged pages", "proc(5), measured", {}, ("KSM",)),
    Step("6.9", "no CAP_SYS_NICE for oneself", "22af8caff7d1, memory", {"vector_needs_nice_for_own": False}),
    Step("6.9", "hugetlb pages are reserved again", "df7a6d1f6405, memory", {"hugetlb_restores": True}),
    Step("6.10", "mseal", "mseal(2)", {"seals": True}),
    Step("6.11", "the huge zero page looks like a file's", "measured", {"pagemap_huge_zero_file": True}),
    Step("6.12", "seals mapping by mapping", "mm/madvise.c 6.12", {"seal_per_mapping": True}),
    Step("6.13", "process_madvise of oneself takes any advice", "021781b01275", {"vector_any_of_own": True}),
    Step("6.13", "[vvar_vclock]", "e93d2521b27f, memory", {"vvar_clocks_apart": True}),
    Step("6.13", "a write makes the zero huge page a huge page", "memory", {"huge_zero_becomes_huge": True}),
    Step("6.14", "emptied page tables are freed", "measured", {"frees_tables": True}),
    Step(
        "6.15", "guards in file mappings; their pagemap bit", "measured", {"guard_files": True, "pagemap_guard": True}
    ),
    Step("6.15", "parts of huge pages are reused", "mm/memory.c 6.18, memory", {"reuses_parts": "own"}),
    Step("6.16", "one gather for a whole madvise", "43c4cfde7e37, memory", {"gathers_whole_calls": True}),
    Step(
        "6.17",
        "mremap moves several mappings, and checks before it unmaps",
        "measured on 6.18; mremap(2)",
        {"remap_many": True, "remap_checks_first": True},
    ),
    Step(
        "6.18",
        "guards are sticky; mprotect uncharges",
        "measured",
        {"guard_is_sticky": True, "uncharges_read_only": True},
    ),
    Step(
        "6.18",
        "collapse of what cannot be written; faults map whole folios",
        "measured",
        {"collapse_needs_writable": False, "maps_whole_folio": True},
    ),
)


def behaviour_at(version: str) -> Behaviour:
    """How Linux `version` behaves, by the steps up to it.

    Args:
        version: as "6.18"; what follows the first three numbers is ignored.
    Raises:
        UsageError: it is no version, or older than the oldest step.
    """
    numbers = numbers_of(version)
    if numbers < numbers_of(OLDEST):
        msg = f"there is no model of Linux {version}"
        raise UsageError(msg, hint=f"the oldest is {OLDEST}, the newest {NEWEST}")
    changes: dict[str, Any] = {}
    to_come: set[str] = set()
    for step in STEPS:
        if numbers_of(step.since) <= numbers:
            changes.update(step.changes)
        else:
            to_come.update(step.lines)
    return Behaviour(version=numbers, lines_to_come=frozenset(to_come), **changes)


def numbers_of(version: str) -> tuple[int, ...]:
    """The numbers of a version, three at most, to compare with others: of `6.18.44-cloud` 6, 18 and 44.

    Raises:
        UsageError: it does not begin with numbers.
    """
    numbers: list[int] = []
    for part in version.partition("-")[0].split(".")[:3]:
        if not (part.isascii() and part.isdigit()):
            break
        numbers.append(int(part))
    if len(numbers) < _FEWEST_NUMBERS:
        msg = f"{version!r} is no version of Linux"
        raise UsageError(msg, hint=f"as in {OLDEST} or {NEWEST}")
    return tuple(numbers)
