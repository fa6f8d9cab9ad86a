"""The way of a discard through the kernel, step by step: which functions, which entries they meet, what that leads to.

Recorded while the model works, from what it finds, so that the explanation cannot say anything but what was done. The
names are those of the modelled version; 2.6.32's and 6.18's were read, those in between are the nearer of the two.

Kernel:
    2.6.32: mm/madvise.c, mm/memory.c, include/asm-generic/tlb.h. 6.18: mm/madvise.c, mm/memory.c, mm/mmu_gather.c.
"""

from __future__ import annotations

from dontneed.model import entries
from dontneed.model.entries import DIRTY, HUGE, KIND, KIND_NAMES, LEAF_PAGES, YOUNG
from dontneed.model.gather import Gather
from dontneed.model.mm import PAGE_SHIFT
from dontneed.model.walk import walk
from dontneed.records import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from dontneed.abi.page_entry import TableEntry
    from dontneed.model.leaf import Run
    from dontneed.model.mm import Mm
    from dontneed.model.versions import Behaviour
    from dontneed.model.vma import Vma


class Stage(Record):
    """One step of the way.

    Attributes:
        depth: how deep in the calls.
        function: the kernel's name for it; empty for what is no call of its own.
        what: what it does here, in words.
        entries: the page-table entries met, each the first of its kind.
    """

    depth: int
    function: str
    what: str
    entries: tuple[TableEntry, ...] = ()


_TABLES_SHOWN = 4
"""Of the page tables on the way; what many have alike is told once."""

_RENAMED_SINCE = (6, 3)
"""zap_page_range() went, and single mappings got a way of their own."""

_MADVISE = {
    False: ("sys_madvise", "madvise_vma", "madvise_dontneed", "zap_page_range", "unmap_vmas", "unmap_page_range"),
    True: (
        "do_madvise",
        "madvise_walk_vmas",
        "madvise_vma_behavior",
        "madvise_dontneed_free",
        "madvise_dontneed_single_vma",
        "zap_page_range_single_batched",
        "unmap_single_vma",
        "unmap_page_range",
    ),
}
_MUNMAP = {
    False: ("sys_munmap", "do_munmap", "unmap_region", "unmap_vmas", "unmap_page_range"),
    True: ("__vm_munmap", "do_vmi_munmap", "vms_clear_ptes", "unmap_vmas", "unmap_single_vma", "unmap_page_range"),
}
_OTHERWISE = {False: ("unmap_vmas", "unmap_page_range"), True: ("unmap_single_vma", "unmap_page_range")}


class Path:
    """Records the way of every zap since it was made or last asked.

    Attributes:
        stages: what was recorded.
    """

    def __init__(self, behaviour: Behaviour) -> None:
        self.stages: list[Stage] = []
        self._behaviour = behaviour
        self._modern = behaviour.version >= _RENAMED_SINCE
        self._chain: tuple[str, ...] = ()
        self._before: dict[str, int] = {}
        self._depth = 0

    def taken(self) -> tuple[Stage, ...]:
        """What was recorded since this was last asked."""
        stages = tuple(self.stages)
        self.stages.clear()
        return stages

    def calling(self, call: str, what: str) -> None:
        """A system call begins.

        Args:
            call: madvise, munmap or another.
            what: its arguments, in words.
        """
        chains = {"madvise": _MADVISE, "munmap": _MUNMAP}.get(call, _OTHERWISE)
        self._chain = chains[self._modern]
        self.stages.append(Stage(0, self._chain[0], what))

    def zapping(self, mm: Mm, vma: Vma, first: int, last: int, keep: frozenset[int]) -> None:
        """Pages `[first, last)` of `vma` are about to be zapped; entries of the kinds `keep` stay."""
        self._before = _counters(mm)
        chain = self._chain[1:] or _OTHERWISE[self._modern]
        for depth, function in enumerate(chain, 1):
            self.stages.append(Stage(depth, function, self._duty(function, mm, vma, first, last)))
        self._depth = len(chain)
        self._descend(mm, first, last, keep)
        gather = Gather(self._behaviour)
        for start, end, code, _ in mm.table.segments(first, last):
            gather.meet(end - start, code, kept=bool(code) and code & KIND in keep)
        for flush in gather.finish():
            self.stages.append(Stage(1, "", flush))

    def zapped(self, mm: Mm, tables_freed: int) -> None:
        """The zap is done."""
        changes = [
            f"{name} {after - before:+d} pages"
            for name, after in _counters(mm).items()
            if (after - (before := self._before[name]))
        ]
        if tables_freed:
            changes.append(f"{tables_freed} page tables freed (try_to_free_pte)")
        self.stages.append(Stage(1, "", f"counters: {', '.join(changes) or 'none moves'}"))

    def _duty(self, function: str, mm: Mm, vma: Vma, first: int, last: int) -> str:
        span = f"{first << PAGE_SHIFT:#x}-{last << PAGE_SHIFT:#x}, {last - first} pages"
        match function:
            case "madvise_vma" | "madvise_vma_behavior":
                return f"one mapping: {span} of {vma.first << PAGE_SHIFT:#x}-{vma.last << PAGE_SHIFT:#x}"
            case "madvise_dontneed":
                return "refuses VM_LOCKED, VM_HUGETLB, VM_PFNMAP with EINVAL: none is set"
            case "madvise_dontneed_free":
                return "sealed? allowed for this mapping? userfaultfd told? then on"
            case "zap_page_range":
                return f"lru_add_drain(); tlb_gather_mmu(); hiwater_rss is {mm.peak_pages} pages now"
            case "zap_page_range_single_batched":
                tables = "; emptied tables may go" if self._behaviour.frees_tables else ""
                return f"one mmu_gather for the whole call; hiwater_rss is {mm.peak_pages} pages now{tables}"
            case "unmap_page_range":
                return f"{span}, from the PGD down"
            case _:
                return ""

    def _descend(self, mm: Mm, first: int, last: int, keep: frozenset[int]) -> None:
        """The tables on the way, one page table after the other, and the runs of alike entries in each."""
        met = _tables_met(mm, first, last)
        left_out = max(0, len(met) - _TABLES_SHOWN)
        for number in met[: _TABLES_SHOWN - 1]:
            self._enter(mm, number, first, last, keep)
        if left_out:
            self.stages.append(Stage(self._depth + 1, "", f"… {left_out} page tables more"))
        for number in met[_TABLES_SHOWN - 1 :][-1:]:
            self._enter(mm, number, first, last, keep)

    def _enter(self, mm: Mm, number: int, first: int, last: int, keep: frozenset[int]) -> None:
        """One page table: how one gets there, and the runs of alike entries in it."""
        start, end = max(first, number * LEAF_PAGES), min(last, (number + 1) * LEAF_PAGES)
        upper = tuple(entry for entry in walk(mm, start) if entry.table != "PTE")
        self.stages.append(Stage(self._depth + 1, self._directories(), _way_down(upper), upper))
        runs = mm.table.runs(start, end)
        for run in runs:
            self._meet(mm, run, keep)
        if gaps := end - start - sum(run[1] - run[0] for run in runs):
            self.stages.append(Stage(self._depth + 2, "", f"{gaps} × none: skipped"))

    def _meet(self, mm: Mm, run: Run, keep: frozenset[int]) -> None:
        first, last, code, _ = run
        outcome = "kept" if code & KIND in keep else OUTCOMES[code & KIND](self._behaviour, code)
        function = self._entry_function(code)
        self.stages.append(
            Stage(self._depth + 2, function, f"{last - first} × {_words_of(code)}: {outcome}", walk(mm, first)[-1:])
        )

    def _directories(self) -> str:
        if self._modern:
            return "zap_p4d_range → zap_pud_range → zap_pmd_range"
        return "zap_pud_range → zap_pmd_range"

    def _entry_function(self, code: int) -> str:
        if code & HUGE:
            return "zap_huge_pmd"
        if not self._modern:
            return "zap_pte_range"
        present = code & KIND in entries.PRESENT
        return f"zap_pte_range → {'zap_present_ptes' if present else 'zap_nonpresent_ptes'}"


def _counters(mm: Mm) -> dict[str, int]:
    resident = mm.resident
    return {
        "anon": resident[entries.ANON],
        "file": resident[entries.FILE],
        "shmem": resident[entries.SHMEM],
        "swap": resident[entries.SWAP],
        "frames in use": mm.system.frames.in_use,
        "swap slots in use": mm.system.swap.used,
    }


def _tables_met(mm: Mm, first: int, last: int) -> list[int]:
    low, high = first // LEAF_PAGES, (last - 1) // LEAF_PAGES
    leaves = mm.table.leaves
    if high - low < len(leaves):
        return [number for number in range(low, high + 1) if number in leaves]
    return sorted(number for number in leaves if low <= number <= high)


def _way_down(met: tuple[TableEntry, ...]) -> str:
    return " → ".join(f"{entry.table}[{entry.index}]" for entry in met)


def _anonymous(_behaviour: Behaviour, code: int) -> str:
    lost = "dirty and young are forgotten; " if code & (DIRTY | YOUNG) else ""
    table = "; its deposited table is freed" if code & HUGE else ""
    return f"cleared; {lost}anon counter down; the frame is freed with its last reference{table}"


def _file(behaviour: Behaviour, code: int) -> str:
    counter = "shmem" if code & KIND == entries.SHMEM and behaviour.rss_by_kind else "file"
    dirty = "the page is marked dirty; " if code & DIRTY else ""
    young = "the page is marked used; " if code & YOUNG else ""
    return f"cleared; {dirty}{young}{counter} counter down; the page cache keeps the frame"


def _swap(behaviour: Behaviour, _code: int) -> str:
    counter = "; swap counter down" if behaviour.counts_swap else "; no counter of this process knows"
    return f"cleared; the slot loses an entry and is free with the last{counter}"


def _migration(behaviour: Behaviour, _code: int) -> str:
    return "cleared; RSS counter down" if behaviour.rss_by_kind else "cleared; RSS is not counted down: it leaks one"


OUTCOMES: dict[int, Callable[[Behaviour, int], str]] = {
    entries.NONE: lambda _behaviour, _code: "skipped",
    entries.ANON: _anonymous,
    entries.FILE: _file,
    entries.SHMEM: _file,
    entries.ZERO: lambda _behaviour, _code: "cleared; no frame was held, no counter moves",
    entries.PFN: lambda _behaviour, _code: "cleared; no page structure, no counter moves",
    entries.SWAP: _swap,
    entries.MIGRATION: _migration,
    entries.NONLINEAR: lambda _behaviour, _code: "cleared, unless the mapping is nonlinear: then it stays",
    entries.POISON: lambda _behaviour, _code: "cleared",
    entries.GUARD: lambda _behaviour, _code: "kept by a discard, dropped by munmap",
    entries.HUGETLB: lambda _behaviour, _code: "cleared; the huge page goes back to its pool",
}
"""What each kind of entry leads to when it is zapped."""


def outcomes(behaviour: Behaviour) -> tuple[tuple[str, str], ...]:
    """What zapping leads to, entry by entry, on one kernel: the entry in words, and what becomes of it."""
    known = [
        entries.NONE,
        entries.ANON,
        entries.ANON | DIRTY | YOUNG,
        entries.FILE,
        entries.FILE | DIRTY,
        entries.FILE | YOUNG,
        entries.SHMEM | DIRTY,
        entries.ZERO,
        entries.PFN,
        entries.SWAP,
        entries.MIGRATION,
        entries.POISON,
    ]
    known += [entries.NONLINEAR] if behaviour.nonlinear else []
    known += [entries.ANON | HUGE] if behaviour.huge_pages else []
    known += [entries.GUARD] if behaviour.pagemap_guard else []
    return tuple((_words_of(code), OUTCOMES[code & KIND](behaviour, code)) for code in known)


def _words_of(code: int) -> str:
    flags = ((DIRTY, "dirty"), (YOUNG, "young"), (HUGE, "huge"))
    return ", ".join([KIND_NAMES[code & KIND], *(word for bit, word in flags if code & bit)])
