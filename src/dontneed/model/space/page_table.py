"""The page tables of one modelled address space.

The last level is a dict of leaves (`leaf.py` has their forms); of the levels above only which tables exist is known,
for that is what VmPTE counts and what is left over when memory goes. Tables come with the first entry below them, stay
when their entries go, and are freed by name: by `free_tables`, as munmap does, or `drop_leaf`, as MADV_DONTNEED does
since 6.14. One exception is the kernel's: a huge entry holds a table in deposit, and both go together.

All addresses are page numbers, all ranges half-open. What edits part of a huge entry has to split it first.

Kernel:
    mm/memory.c (unmap_page_range, free_pgtables, copy_page_range), mm/mremap.c (move_page_tables)
"""

from __future__ import annotations

from functools import cache

from dontneed.model.space.entries import HUGE, KIND, LEAF_PAGES, PRESENT
from dontneed.model.space.leaf import (
    STEP,
    Patchwork,
    entry_at,
    erased,
    filled,
    is_huge,
    is_table,
    recoded,
    runs_within,
    taken,
    with_gaps,
    with_page,
    written,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator

    from dontneed.model.space.leaf import Allocate, Leaf, Run

LEAF_SHIFT, PMD_SHIFT, PUD_SHIFT, P4D_SHIFT = 9, 18, 27, 36
"""How many pages a table of each level covers, as a power of two."""

FIVE_LEVELS = 5
TABLE_BYTES = 4096

_FEW = 8
"""So many tables are looked up one by one."""

ALL_KINDS = frozenset(range(KIND + 1))


class PageTable:
    """Which entry each page has, and which tables hold them.

    Args:
        levels: four or five, of which the highest always exists.
    """

    __slots__ = ("leaves", "levels", "p4ds", "pmds", "puds")

    def __init__(self, levels: int = 4) -> None:
        self.levels = levels
        self.leaves: dict[int, Leaf] = {}
        self.pmds: set[int] = set()
        self.puds: set[int] = set()
        self.p4ds: set[int] = set()

    def get(self, vpn: int) -> tuple[int, int]:
        """Code and value of a page's entry; (0, 0) where there is none."""
        return entry_at(self.leaves.get(vpn >> LEAF_SHIFT, ()), vpn % LEAF_PAGES)

    def runs(self, first: int, last: int) -> list[Run]:
        """The entries of a range as runs (first, last, code, value), ascending; a run ends with its table."""
        runs = []
        for number, leaf, start, stop in self._leaves_within(first, last):
            base = number << LEAF_SHIFT
            for begin, end, code, value in runs_within(leaf, start, stop):
                runs.append((base + begin, base + end, code, value))
        return runs

    def segments(self, first: int, last: int) -> list[Run]:
        """The whole of a range: its runs, and the gaps between them as runs of code 0, each as long as can be."""
        return list(with_gaps(self.runs(first, last), first, last))

    def put(self, first: int, last: int, code: int, value: int) -> None:
        """Give the pages of a range entries, whatever was there; `value` is that of the first."""
        for number, start, stop in _pieces(first, last):
            offset = (number << LEAF_SHIFT) + start - first
            run = (start, stop, code, value + STEP[code] * offset)
            self.leaves[number] = written(self._leaf(number), run)

    def put_into_gap(self, vpn: int, code: int, allocate: Allocate) -> bool:
        """Give one page an entry where its table is there and has none, as `fill` does; whether that was so."""
        number, page = vpn >> LEAF_SHIFT, vpn % LEAF_PAGES
        leaf = self.leaves.get(number)
        if leaf is None:
            return False
        if isinstance(leaf, Patchwork):
            codes = leaf.codes
            if codes[page]:
                return False
            codes[page] = code
            leaf.values[page] = allocate(1)
            return True
        if entry_at(leaf, page)[0]:
            return False
        self.leaves[number] = with_page(leaf, page, code, allocate(1))
        return True

    def fill(self, first: int, last: int, code: int, allocate: Allocate) -> int:
        """Give entries to those pages of a range that have none: touch them all.

        Args:
            first: where the range starts.
            last: where it ends.
            code: of the new entries.
            allocate: called for each gap within a table, ascending, with its pages; returns the first value.
        Returns:
            How many pages had none.
        """
        filled_pages = 0
        for number, start, stop in _pieces(first, last):
            leaf, pages = filled(self._leaf(number), start, stop, code, allocate)
            self.leaves[number] = leaf
            filled_pages += pages
        return filled_pages

    def clear(self, first: int, last: int) -> None:
        """Leave no entries in a range."""
        for number, leaf, start, stop in self._leaves_within(first, last):
            self._empty(number, leaf, erased(leaf, start, stop))

    def take(self, first: int, last: int, keep: Container[int] = ()) -> tuple[list[Run], list[int]]:
        """Remove the entries of a range and hand them over: what zapping begins with.

        Args:
            first: where the range starts.
            last: where it ends.
            keep: kinds of entries that stay.
        Returns:
            The runs removed, in page numbers of their table (adding the table's own would double the time of zapping a
            sparse tebibyte, and nothing asks for it); the tables that lie whole in the range and are empty now.
        """
        runs: list[Run] = []
        emptied: list[int] = []
        leaves = self.leaves
        for number, leaf, start, stop in self._leaves_within(first, last):
            is_whole = stop - start == LEAF_PAGES
            if is_whole and leaf and type(leaf) is tuple and not (leaf[2] & HUGE or leaf[2] & KIND in keep):
                runs.append(leaf)
                leaves[number] = ()
                emptied.append(number)
                continue
            gone, left = taken(leaf, start, stop, keep)
            runs += gone
            self._empty(number, leaf, left)
            if is_whole and not left and number in leaves:
                emptied.append(number)
        return runs, emptied

    def recode(self, first: int, last: int, clear: int, add: int = 0, kinds: frozenset[int] = PRESENT) -> None:
        """Clear and add flags of the entries of a range.

        Args:
            first: where the range starts.
            last: where it ends.
            clear: flags to clear.
            add: flags to add, after that.
            kinds: the kinds of entries that change.
        """
        table = _recoding(clear, add, kinds)
        for number, leaf, start, stop in self._leaves_within(first, last):
            self.leaves[number] = recoded(leaf, start, stop, table)

    def ensure(self, vpn: int) -> None:
        """Make the tables of a page, if they are not there."""
        self._leaf(vpn >> LEAF_SHIFT)

    def tables(self, first: int, last: int) -> list[int]:
        """The numbers of the tables of the last level that serve a range, ascending; huge entries are none."""
        return [number for number, leaf, _, _ in self._leaves_within(first, last) if not is_huge(leaf)]

    def ensure_upper(self, vpn: int) -> None:
        """Make the tables above the last level for a page: all that a fault which fails leaves behind."""
        self.pmds.add(vpn >> PMD_SHIFT)
        self.puds.add(vpn >> PUD_SHIFT)
        if self.levels == FIVE_LEVELS:
            self.p4ds.add(vpn >> P4D_SHIFT)

    def copy_upper_to(self, other: PageTable, first: int, last: int) -> None:
        """Make the tables above the last level that there are for a range in another address space too."""
        mine, others = (self.pmds, self.puds, self.p4ds), (other.pmds, other.puds, other.p4ds)
        for tables, copies, shift in zip(mine, others, (PMD_SHIFT, PUD_SHIFT, P4D_SHIFT), strict=True):
            copies.update(_members(tables, _tables_of(first, last, shift)))

    def split_huge(self, number: int) -> None:
        """Map the 512 pages of a huge entry one by one."""
        leaf = self.leaves[number]
        if not is_huge(leaf):
            msg = f"table {number:#x} is no huge entry"
            raise AssertionError(msg)
        self.leaves[number] = recoded(leaf, 0, LEAF_PAGES, _recoding(HUGE, 0, ALL_KINDS))

    def drop_leaf(self, number: int) -> None:
        """Free an empty table of the last level; those above it stay."""
        if self.leaves.pop(number, ()):
            msg = f"table {number:#x} has entries: take them before it goes"
            raise AssertionError(msg)

    def drop_leaves(self, numbers: Iterable[int]) -> None:
        """Free empty tables of the last level, as `take` says which."""
        leaves = self.leaves
        left = [leaves.pop(number, ()) for number in numbers]
        if any(left):
            msg = "a table has entries: take them before it goes"
            raise AssertionError(msg)

    def free_tables(self, first: int, last: int, floor: int, ceiling: int) -> int:
        """Free the tables of a range that is no longer mapped.

        Args:
            first: where the range starts.
            last: where it ends.
            floor: where what is mapped below it ends, or 0.
            ceiling: where what is mapped above it starts; 0 if nothing is.
        Returns:
            How many tables went, of all levels. A table goes if it meets the range and lies between floor and ceiling.
        Kernel:
            mm/memory.c (free_pgd_range and what it calls)
        """
        numbers = _tables_between(first, last, floor, ceiling, LEAF_SHIFT)
        if not numbers:
            return 0
        gone = _members(self.leaves, numbers)
        for number in gone:
            self.drop_leaf(number)
        freed = len(gone)
        for tables, shift in ((self.pmds, PMD_SHIFT), (self.puds, PUD_SHIFT), (self.p4ds, P4D_SHIFT)):
            numbers = _tables_between(first, last, floor, ceiling, shift)
            if not numbers:
                break
            gone = _members(tables, numbers)
            tables.difference_update(gone)
            freed += len(gone)
        return freed

    def move(self, first: int, last: int, to: int, *, whole_tables: bool = False) -> None:
        """Move the entries of a range to another that it does not meet.

        Args:
            first: where the range starts.
            last: where it ends.
            to: where its first page goes. Where there was a table, there will be one, entries or not; the old tables
                stay until they are freed.
            whole_tables: hand a table over as it is where it lies whole in the range, lands on a table's place, and
                finds that empty.
        Kernel:
            mm/mremap.c (move_page_tables); whole tables since 5.0 (move_normal_pmd, CONFIG_HAVE_MOVE_PMD)
        """
        distance = to - first
        for number, leaf, start, stop in self._leaves_within(first, last):
            target = number + (distance >> LEAF_SHIFT)
            is_whole = stop - start == LEAF_PAGES and distance % LEAF_PAGES == 0
            if whole_tables and is_whole and target not in self.leaves:
                self._leaf(target)
                self.leaves[target] = self.leaves.pop(number)
                continue
            moved, left = taken(leaf, start, stop, ())
            self._empty(number, leaf, left)
            base = (number << LEAF_SHIFT) + distance
            self.ensure(base + start)
            self.ensure(base + stop - 1)
            for begin, end, code, value in moved:
                self.put(base + begin, base + end, code, value)

    def copy_to(self, other: PageTable, first: int, last: int) -> list[Run]:
        """Give another address space the entries of a range, and tables where there are tables: what fork does.

        Returns:
            The runs copied, in page numbers of their table, for their frames to be counted once more.
        """
        runs: list[Run] = []
        for number, leaf, start, stop in self._leaves_within(first, last):
            inside = runs_within(leaf, start, stop)
            runs += inside
            copy = other._leaf(number)
            if stop - start == LEAF_PAGES and not copy:
                other.leaves[number] = leaf.copy() if isinstance(leaf, Patchwork) else leaf
                continue
            for run in inside:
                copy = other.leaves[number] = written(copy, run)
        return runs

    def table_bytes(self, levels_counted: int = 3) -> tuple[int, ...]:
        """What the tables of the lowest levels take, in bytes: (PTE, PMD, PUD, P4D), as many as asked for.

        Kernel:
            VmPTE counts the first until 4.14, three since 4.15 (mm/memory.c, mm_inc_nr_ptes and the like)
        """
        counts = (sum(map(is_table, self.leaves.values())), len(self.pmds), len(self.puds), len(self.p4ds))
        return tuple(TABLE_BYTES * count for count in counts[:levels_counted])

    def _leaf(self, number: int) -> Leaf:
        """A leaf by number, made if it is not there, and the tables above it."""
        leaf = self.leaves.get(number)
        if leaf is None:
            leaf = self.leaves[number] = ()
            self.ensure_upper(number << LEAF_SHIFT)
        return leaf

    def _empty(self, number: int, before: Leaf, left: Leaf) -> None:
        """Leave `left` of a leaf; a huge entry that goes takes its table along."""
        if not left and is_huge(before):
            del self.leaves[number]
        else:
            self.leaves[number] = left

    def _leaves_within(self, first: int, last: int) -> Iterable[tuple[int, Leaf, int, int]]:
        """The leaves that a range meets, ascending: number, leaf, and which of its pages are in the range."""
        number = first >> LEAF_SHIFT
        if first < last <= (number + 1) << LEAF_SHIFT:
            leaf = self.leaves.get(number)
            return () if leaf is None else ((number, leaf, first % LEAF_PAGES, last - (number << LEAF_SHIFT)),)
        return self._leaves_across(first, last)

    def _leaves_across(self, first: int, last: int) -> Iterator[tuple[int, Leaf, int, int]]:
        leaves = self.leaves
        head, tail = first >> LEAF_SHIFT, (last - 1) >> LEAF_SHIFT
        numbers = range(head, tail + 1) if first < last else range(0)
        for number in [each for each in numbers if each in leaves] if tail - head < _FEW else _members(leaves, numbers):
            if head < number < tail:
                yield number, leaves[number], 0, LEAF_PAGES
            else:
                base = number << LEAF_SHIFT
                yield number, leaves[number], max(first - base, 0), min(last - base, LEAF_PAGES)


def _pieces(first: int, last: int) -> Iterable[tuple[int, int, int]]:
    """A range cut at the ends of tables: number of the table, and which of its pages are in the range."""
    number = first >> LEAF_SHIFT
    if first < last <= (number + 1) << LEAF_SHIFT:
        return ((number, first % LEAF_PAGES, last - (number << LEAF_SHIFT)),)
    return [
        (number, max(first - (number << LEAF_SHIFT), 0), min(last - (number << LEAF_SHIFT), LEAF_PAGES))
        for number in _tables_of(first, last, LEAF_SHIFT)
    ]


def _tables_of(first: int, last: int, shift: int) -> range:
    """The numbers of the tables that a range meets."""
    return range(first >> shift, ((last - 1) >> shift) + 1 if first < last else 0)


def _tables_between(first: int, last: int, floor: int, ceiling: int, shift: int) -> range:
    """The numbers of the tables that a range meets and that lie whole between `floor` and `ceiling`."""
    numbers = _tables_of(first, last, shift)
    lowest = -(-floor >> shift)
    return range(max(numbers.start, lowest), min(numbers.stop, ceiling >> shift) if ceiling else numbers.stop)


def _members(tables: dict[int, Leaf] | set[int], numbers: range) -> list[int]:
    """Those of the numbers that exist, ascending; the time it takes is that of the fewer."""
    if len(numbers) <= len(tables):
        return list(filter(tables.__contains__, numbers))
    return sorted(filter(numbers.__contains__, tables))


@cache
def _recoding(clear: int, add: int, kinds: frozenset[int]) -> bytes:
    """What each code becomes when the flags of some kinds change."""
    if (clear | add) & KIND:
        msg = "recoding changes flags: to change the kind of an entry, put another one there"
        raise AssertionError(msg)
    return bytes((code & ~clear) | add if code & KIND in kinds else code for code in range(256))
