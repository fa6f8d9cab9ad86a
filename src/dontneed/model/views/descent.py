"""From the page global directory down to the pages: which function reads which entry, and what that leads to.

As a zap finds it, before anything is taken away: a stretch of pages after the other, each either behind one page table
or behind none.

Kernel:
    mm/memory.c unmap_page_range(), zap_p4d_range() (since 4.12), zap_pud_range(), zap_pmd_range(), zap_pte_range();
    mm/huge_memory.c zap_huge_pmd(), __split_huge_pmd(); mm/hugetlb.c __unmap_hugepage_range().
"""

from __future__ import annotations

from dontneed.abi.page_entry import LEVEL_BITS, LEVELS, decode_entry, level_index
from dontneed.model.space import entries
from dontneed.model.space.entries import HUGE, KIND, LEAF_PAGES
from dontneed.model.space.vma import HUGETLB
from dontneed.model.views.gather import counted
from dontneed.model.views.outcomes import outcome_of, words_of
from dontneed.model.views.walk import raw_entry, walk
from dontneed.records import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from dontneed.abi.page_entry import TableEntry
    from dontneed.model.space.leaf import Run
    from dontneed.model.space.mm import Mm
    from dontneed.model.space.vma import Vma
    from dontneed.model.views.gather import Gather

_READERS = {
    "PGD": "unmap_page_range",
    "P4D": "zap_p4d_range",
    "PUD": "zap_pud_range",
    "PMD": "zap_pmd_range",
    "PTE": "zap_pte_range",
}
_SPLIT_FUNCTIONS = {False: "split_huge_page_pmd", True: "__split_huge_pmd"}
_STRETCHES_SHOWN = 4
"""What many page tables have alike is told once."""


class Stage(Record):
    """One step of the way.

    Attributes:
        depth: how deep in the calls.
        function: the kernel's name for it; empty for what is no call of its own.
        what: what it does here, or meets, in words.
        entries: the page-table entries met; of many alike the first.
        outcome: what that leads to; empty where that is the next step.
    """

    depth: int
    function: str
    what: str
    entries: tuple[TableEntry, ...] = ()
    outcome: str = ""


class Stretch(Record):
    """Pages `[first, last)` that have one page table, or none at all.

    Attributes:
        has_table: whether they have one.
    """

    first: int
    last: int
    has_table: bool


class Descent:
    """The way down for pages `[first, last)` of a mapping.

    Args:
        mm: whose.
        vma: the mapping.
        first: the first page.
        last: the page behind the last.
        keep: kinds of entries that stay.
    """

    def __init__(self, mm: Mm, vma: Vma, first: int, last: int, keep: frozenset[int]) -> None:
        self._mm = mm
        self._vma = vma
        self._keep = keep
        self._behaviour = mm.system.behaviour
        self._modern = self._behaviour.zaps_single_mappings
        self._stretches = list(_stretches(mm, first, last))

    @property
    def finds_nothing(self) -> bool:
        """Whether no page has an entry."""
        table = self._mm.table
        return not any(each.has_table and table.runs(each.first, each.last) for each in self._stretches)

    def gather(self, gather: Gather) -> None:
        """Tell an mmu_gather of every entry."""
        for stretch in self._stretches:
            pages = stretch.last - stretch.first
            if not stretch.has_table:
                gather.pass_over(pages, self._empty_entries(stretch))
                continue
            for run in self._mm.table.segments(stretch.first, stretch.last):
                count, code = run[1] - run[0], _code_after_split(run)
                if not code:
                    gather.pass_over(count, count)
                elif code & KIND in self._keep:
                    gather.keep(count)
                else:
                    gather.take(count, code)
            gather.end_table()

    def stages(self, depth: int) -> Iterator[Stage]:
        """The steps, at this depth of calls and deeper."""
        if self._vma.flags & HUGETLB:
            yield from self._hugetlb(depth)
            return
        told: tuple[TableEntry, ...] = ()
        few = len(self._stretches) <= _STRETCHES_SHOWN
        shown = self._stretches if few else self._stretches[: _STRETCHES_SHOWN - 1]
        for stretch in shown:
            upper = self._upper(stretch)
            yield from self._enter(depth, stretch, upper, told)
            told = upper
        if not few:
            left_out = self._stretches[_STRETCHES_SHOWN - 1 : -1]
            yield Stage(depth + 1, "", f"… {counted(sum(each.has_table for each in left_out), 'page table')} more")
            yield from self._enter(depth, self._stretches[-1], self._upper(self._stretches[-1]), told)

    def _upper(self, stretch: Stretch) -> tuple[TableEntry, ...]:
        """The entries above the page table of a stretch, or down to the first that is none."""
        return tuple(entry for entry in walk(self._mm, stretch.first) if entry.table != "PTE")

    def _enter(
        self, depth: int, stretch: Stretch, upper: tuple[TableEntry, ...], told: tuple[TableEntry, ...]
    ) -> Iterator[Stage]:
        """The entries of upper tables that were not told of yet, and what is below them."""
        for number, entry in enumerate(upper):
            if told[: number + 1] != upper[: number + 1]:
                outcome = self._emptiness(stretch, entry) if not entry.raw else ""
                yield Stage(depth, _READERS[entry.table], "", (entry,), outcome)
            depth += 1
            if entry.table == "PGD" and entry.raw and self._folds_p4d:
                if told[:1] != upper[:1]:
                    yield Stage(depth, _READERS["P4D"], "")
                depth += 1
        if stretch.has_table:
            yield from self._table(depth, stretch)

    @property
    def _folds_p4d(self) -> bool:
        """Whether the function for the level that four-level tables lack is called all the same."""
        return self._behaviour.p4d and self._mm.table.levels < len(LEVELS)

    def _emptiness(self, stretch: Stretch, entry: TableEntry) -> str:
        count = self._empty_entries(stretch)
        alike = f", {count} in a row" if count > 1 else ""
        return f"{entry.table.lower()}_none{alike}: skipped, {counted(stretch.last - stretch.first, 'page')}"

    def _empty_entries(self, stretch: Stretch) -> int:
        """How many empty entries, all of the table where the way ends first, stand for a stretch without a table."""
        level = self._mm.table.levels - len(walk(self._mm, stretch.first))
        shift = LEVEL_BITS * level
        return ((stretch.last - 1) >> shift) - (stretch.first >> shift) + 1

    def _table(self, depth: int, stretch: Stretch) -> Iterator[Stage]:
        """What is in one page table, or in the entry of a huge page in its place."""
        first, last = stretch.first, stretch.last
        runs = self._mm.table.runs(first, last)
        if runs and runs[0][2] & HUGE:
            if last - first == LEAF_PAGES:
                code = runs[0][2]
                yield Stage(depth, "zap_huge_pmd", f"1 × {words_of(code)}", (), outcome_of(self._behaviour, code))
                return
            part = f"{last - first} of its {LEAF_PAGES} pages go: the entry becomes a page table"
            yield Stage(depth, _SPLIT_FUNCTIONS[self._behaviour.huge_outlives], part)
        yield Stage(depth, _READERS["PTE"], f"{last - first} of {LEAF_PAGES} entries")
        for run in runs:
            yield self._run(depth + 1, run)
        if gaps := last - first - sum(run[1] - run[0] for run in runs):
            yield Stage(depth + 1, "", f"{gaps} × none", (), "skipped")

    def _run(self, depth: int, run: Run) -> Stage:
        """Entries alike."""
        first, last, _, value = run
        code = _code_after_split(run)
        outcome = "kept" if code & KIND in self._keep else outcome_of(self._behaviour, code)
        raw = raw_entry(self._mm, self._vma, code, value)
        entry = decode_entry("PTE", level_index(first, 0), raw, self._behaviour.version)
        return Stage(depth, self._zapper(code), f"{last - first} × {words_of(code)}", (entry,), outcome)

    def _zapper(self, code: int) -> str:
        if not self._modern:
            return ""
        return "zap_present_ptes" if code & KIND in entries.PRESENT else "zap_nonpresent_ptes"

    def _hugetlb(self, depth: int) -> Iterator[Stage]:
        """Huge pages of the pool have a way of their own."""
        yield Stage(depth, "__unmap_hugepage_range" if self._modern else "unmap_hugepage_range", "")
        for stretch in self._stretches:
            for first, _, code, _ in self._mm.table.runs(stretch.first, stretch.last):
                outcome = "kept" if code & KIND in self._keep else outcome_of(self._behaviour, code)
                yield Stage(depth + 1, "", f"1 × {words_of(code)}", walk(self._mm, first)[-1:], outcome)


def _stretches(mm: Mm, first: int, last: int) -> Iterator[Stretch]:
    """A range in stretches, ascending; a stretch without a table is as long as can be."""
    page = first
    for number in _tables_met(mm, first, last):
        begin, end = max(first, number * LEAF_PAGES), min(last, (number + 1) * LEAF_PAGES)
        if page < begin:
            yield Stretch(page, begin, has_table=False)
        yield Stretch(begin, end, has_table=True)
        page = end
    if page < last:
        yield Stretch(page, last, has_table=False)


def _tables_met(mm: Mm, first: int, last: int) -> list[int]:
    """The numbers of the page tables of a range, and of the huge entries in their place."""
    low, high = first // LEAF_PAGES, (last - 1) // LEAF_PAGES
    leaves = mm.table.leaves
    if high - low < len(leaves):
        return [number for number in range(low, high + 1) if number in leaves]
    return sorted(number for number in leaves if low <= number <= high)


def _code_after_split(run: Run) -> int:
    """The code of a run as the zap meets it: a huge page that goes in part was split before."""
    first, last, code, _ = run
    return code & ~HUGE if last - first < LEAF_PAGES else code
