"""What changed between kernels: since when, and how that is known. `versions` puts it together.

What a source is: a commit; a file and the release it was read in; a manual page; `memory` for what was not verified, or
what is said of that commit. `memory` behind a commit is about the release it came with. `measured`, on kernels that
were booted (tests/kernels): not yet in the first that is named, but in the second, which is `since` where no more is
known.
"""

from __future__ import annotations

from dontneed.records import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


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


STEPS: tuple[Step, ...] = (
    Step("2.6.33", "pagemap shows hugetlb memory", "memory", {"pagemap_hugetlb": True}),
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
        "memory",
        {"smaps_counts_zero_page": False, "smaps_dirty_by_page": True},
        ("Anonymous",),
    ),
    Step("2.6.38", "transparent huge pages", "memory", {"huge_pages": True}, ("Locked",)),
    Step("2.6.39", "smaps counts huge pages", "memory", {}, ("AnonHugePages",)),
    Step("3.0", "mmu_gather holds up to 10,000 pages", "memory", {"gather_pages": 9698, "zap_work_pages": 0}),
    Step("3.0", "what forked merges no more", "965f55dea0e3", {"merge_lends_anon_vma": False}),
    Step("3.2", "VmPin", "bc3e53f682d9, memory", {}, ("VmPin",)),
    Step("3.4", "kpageflags tells huge pages", "memory", {"frame_flag_bits": 23}),
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
    Step("4.8", "khugepaged brings pages back from swap", "memory", {"collapses_swapped": True}),
    Step("4.12", "FREE is lazy without swap", "madvise(2)", {"free_keeps_without_swap": True}, ("LazyFree",)),
    Step("4.12", "a fifth level of page tables", "c2febafc6773, memory", {"p4d": True}),
    Step("4.13", "256 pages stay free below a stack", "memory", {"stack_gap_pages": 256}),
    Step("4.14", "smaps prints page sizes first", "493b0e9d945f", {"smaps_sizes_first": True}),
    Step("4.14", "mremap renews no private memory", "dba58d3b8c50, memory", {"remap_renews_private": False}),
    Step(
        "4.15",
        "HUGEPAGE and NOHUGEPAGE of any mapping",
        "measured between 4.4 and 4.15",
        {"huge_advice_for_all": True},
    ),
    Step(
        "4.15",
        "VmPTE counts all levels",
        "measured between 4.4 and 4.15",
        {"counts_upper_tables": True},
        ("CoreDumping",),
    ),
    Step("4.15", "zram is read past the swap cache", "0bcac06f27d7, aa8d22a11da9", {"swap_in_past_cache": True}),
    Step("4.18", "DODUMP of hugetlb memory", "measured between 4.15 and 4.18", {"dumps_hugetlb": True}),
    Step("4.18", "kpageflags tells page tables", "1d40a5ea01d5, memory", {"frame_flag_bits": 27}),
    Step(
        "5.0",
        "where huge pages may be",
        "7635d9cbe832; measured between 4.18 and 5.0",
        {},
        ("THPeligible", "THP_enabled"),
    ),
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
    Step(
        "5.9",
        "who writes last to a fresh page once shared copies it, and parts of huge pages",
        "09854ba94c6a, memory; measured between 5.8 and 5.10",
        {"counts_references": True, "reuses_parts": "never"},
    ),
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
    Step("5.18", "MLOCK_ONFAULT of what nobody may touch", "b67bf49ce7aa, memory", {"lock_on_fault_looks": False}),
    Step(
        "5.18",
        "who writes last to a fresh page once shared keeps it",
        "d4c470970d45, memory; measured between 5.15 and 5.19",
        {"counts_references": False},
    ),
    Step(
        "5.18", "DONTNEED of hugetlb memory", "90e7e7f5ef3f; measured between 5.15 and 5.19", {"hugetlb_dontneed": True}
    ),
    Step("5.19", "frames known to be one's own", "6c287605fd56, 1493a1913e34", {"exclusive_frames": True}),
    Step("6.0", "what of Pss is dirty", "memory", {}, ("Pss_Dirty",)),
    Step("6.0", "mremap merges what it grows", "ca3d76b0aa80, memory", {"remap_merges_above": True}),
    Step("6.0", "hugetlb memory is faulted in after a fork", "bcd51a3c679d, memory", {"hugetlb_faults_in_child": True}),
    Step("6.1", "brk knows its own mappings only", "mm/mmap.c 6.1, memory", {"heap_is_apart": True}),
    Step(
        "6.1",
        "mprotect makes one's own pages writable at once",
        "64fe24a3e05e, memory; measured between 5.19 and 6.1",
        {"mprotect_gives_leave": True},
    ),
    Step("6.1", "the end of such a DONTNEED is rounded down", "mm/madvise.c 6.1", {"hugetlb_end_down": True}),
    Step("6.3", "zap_page_range is gone", "e9adcfecf572, memory", {"zaps_single_mappings": True}),
    Step("6.3", "RANDOM hides use", "8788f678148", {"zap_ignores_random": True}),
    Step("6.5", "Kthread, untag_mask", "measured between 6.2 and 6.5", {}, ("Kthread", "untag_mask")),
    Step("6.7", "no huge pages for MAP_STACK", "c4608d1bf7c6, memory; measured for 6.18", {"small_stacks": True}),
    Step("6.7", "REMOVE where writing may be allowed", "mm/madvise.c 6.7", {"remove_may_write": True}),
    Step(
        "6.7",
        "mprotect uncharges what was never touched",
        "mm/mprotect: allow unfaulted VMAs to be unaccounted on mprotect(), memory; measured on 6.12",
        {"uncharges_read_only": True},
    ),
    Step("6.7", "mremap moves first tables whole", "memory", {"remap_realigns": True}),
    Step("6.8", "smaps counts merged pages", "proc(5); measured between 6.5 and 6.8", {}, ("KSM",)),
    Step("6.9", "no CAP_SYS_NICE for oneself", "22af8caff7d1, memory", {"vector_needs_nice_for_own": False}),
    Step("6.9", "hugetlb pages are reserved again", "df7a6d1f6405, memory", {"hugetlb_restores": True}),
    Step("6.10", "mseal", "mseal(2)", {"seals": True}),
    Step(
        "6.10",
        "POPULATE_READ and POPULATE_WRITE end at a hole",
        "mm/madvise: don't perform madvise VMA walk for MADV_POPULATE, memory; measured between 6.8 and 6.11",
        {"populate_ends_at_holes": True},
    ),
    Step(
        "6.11",
        "the huge zero page looks like a file's",
        "measured between 6.8 and 6.11",
        {"pagemap_huge_zero_file": True},
    ),
    Step(
        "6.12",
        "what is zero in a huge page that is split becomes the zero page",
        "b1f202060afe; measured between 6.11 and 6.12",
        {"split_finds_zeros": True},
    ),
    Step("6.12", "seals mapping by mapping", "mm/madvise.c 6.12", {"seal_per_mapping": True}),
    Step("6.13", "process_madvise of oneself takes any advice", "021781b01275", {"vector_any_of_own": True}),
    Step("6.13", "[vvar_vclock]", "e93d2521b27f, memory", {"vvar_clocks_apart": True}),
    Step("6.13", "a write makes the zero huge page a huge page", "memory", {"huge_zero_becomes_huge": True}),
    Step(
        "6.14",
        "perf's ring is mapped by number",
        "b709eb872e19; measured between 6.12 and 6.14",
        {"ring_by_number": True},
    ),
    Step("6.14", "emptied page tables are freed", "measured between 6.12 and 6.14", {"frees_tables": True}),
    Step(
        "6.15",
        "guards in file mappings; their pagemap bit",
        "memory; measured between 6.14 and 6.16",
        {"guard_files": True, "pagemap_guard": True},
    ),
    Step("6.15", "parts of huge pages are reused", "mm/memory.c 6.18, memory", {"reuses_parts": "own"}),
    Step("6.16", "one gather for a whole madvise", "43c4cfde7e37, memory", {"gathers_whole_calls": True}),
    Step(
        "6.16",
        "who has an anon_vma shares it with the neighbour it merges with",
        "measured between 6.14 and 6.16",
        {"merge_lends_anon_vma": True},
    ),
    Step(
        "6.16",
        "VmLck counts what MREMAP_DONTUNMAP unlocks",
        "measured between 6.14 and 6.16",
        {"remap_counts_locked": True},
    ),
    Step("6.17", "mseal loses its place", "measured between 6.16 and 6.17", {"seal_loses_place": True}),
    Step(
        "6.17",
        "mremap moves several mappings, and checks before it unmaps",
        "measured on 6.18; mremap(2)",
        {"remap_many": True, "remap_checks_first": True},
    ),
    Step(
        "6.17",
        "mprotect changes the parts of a huge page together",
        "memory; measured on 6.18",
        {"protects_parts_together": True},
    ),
    Step(
        "6.18",
        "collapse of what cannot be written; faults map whole folios",
        "measured on 6.18",
        {"collapse_needs_writable": False, "maps_whole_folio": True},
    ),
    Step(
        "6.18.44",
        "guards are sticky",
        "5dba5cc2e0ff of 6.19, taken back; not in the source of 6.18.35; measured between 6.18.15 and 6.18.44",
        {"guard_is_sticky": True},
    ),
    Step(
        "6.18.44",
        "mseal finds its place again",
        "mm/mseal: update VMA end correctly on merge, taken back; measured between 6.18.15 and 6.18.44",
        {"seal_loses_place": False},
    ),
    Step(
        "7.0",
        "DOFORK of the kernel's own memory is refused",
        "measured between 6.19 and 7.0",
        {"dofork_of_special": False},
    ),
    Step("7.1", "[vvar] may be discarded", "measured between 7.0 and 7.1", {"vvar_by_number": False}),
    Step(
        "7.2",
        "MREMAP_DONTUNMAP unlocks what it leaves, and no more",
        "measured between 7.1 and 7.2",
        {"remap_leaves_part": True, "remap_counts_locked": False},
    ),
    Step("7.2", "secret memory is not locked", "measured between 7.1 and 7.2", {"secret_is_locked": False}),
    Step(
        "7.2",
        "process_madvise refuses an advice that there is not, without any range too",
        "measured between 7.1 and 7.2",
        {"vector_refuses_unknown": True},
    ),
    Step("7.2", "COLLAPSE within a huge page", "measured between 7.1 and 7.2", {"collapse_within": True}),
    Step("7.3", "[vvar] may be populated", "measured between 7.2 and 7.3", {"vvar_is_io": False}),
)
