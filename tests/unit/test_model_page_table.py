"""The modelled page table: which form its tables take, which tables there are, and what it refuses."""

from __future__ import annotations

import pytest

from dontneed.model.space.entries import ANON, FILE, GUARD, HUGE, HUGETLB, KIND, LEAF_PAGES, SHMEM, SWAP, WRITE
from dontneed.model.space.leaf import Patchwork
from dontneed.model.space.page_table import PageTable

TOP = 1 << 36
TABLE_BYTES = 4096


class _Frames:
    """Values in order, as an allocator would give them; `asked` remembers for how many."""

    def __init__(self, following=1_000):
        self.following = following
        self.asked = []

    def __call__(self, pages):
        self.asked.append(pages)
        self.following += pages
        return self.following - pages


def test_pages_touched_in_order_stay_one_run():
    """Neighbours whose values go on are joined, so that touching in order costs nothing later."""
    table, allocate = PageTable(), _Frames(70)
    for page in range(1000, 1020):
        table.fill(page, page + 1, ANON, allocate)
    assert table.runs(0, TOP) == [(1000, 1020, ANON, 70)]


def test_pages_touched_downwards_do_not_join():
    """Values that fall along the pages are no run, and nothing is lost when they become many."""
    table, allocate = PageTable(), _Frames(70)
    for page in range(1019, 999, -1):
        table.fill(page, page + 1, ANON, allocate)
    assert table.runs(0, TOP) == [(page, page + 1, ANON, 1089 - page) for page in range(1000, 1020)]


def test_kinds_that_say_the_same_about_each_page_join_on_equal_values():
    """Two guard markers side by side are one run, and a cut of it keeps the value."""
    table = PageTable()
    table.put(5, 7, GUARD, 0)
    table.put(7, 9, GUARD, 0)
    assert table.runs(6, 9) == [(6, 9, GUARD, 0)]


def test_a_filled_range_keeps_what_was_there():
    """Only gaps get entries, each from one call for its pages."""
    table, allocate = PageTable(), _Frames(50)
    table.put(3, 5, SWAP, 9)
    assert table.fill(0, 8, ANON, allocate) == 6
    assert table.runs(0, 8) == [(0, 3, ANON, 50), (3, 5, SWAP, 9), (5, 8, ANON, 53)]
    assert allocate.asked == [3, 3]


def test_a_patchwork_becomes_runs_again_when_few_entries_are_left():
    """A table that was busy once costs no more than any other once it is empty."""
    table = PageTable()
    for page in range(0, 40, 2):
        table.put(page, page + 1, ANON, page)
    assert isinstance(table.leaves[0], Patchwork)
    table.take(4, 500)
    assert table.leaves[0] == [(0, 1, ANON, 0), (2, 3, ANON, 2)]
    table.clear(0, 3)
    assert table.leaves[0] == ()


def test_a_copied_patchwork_changes_apart():
    """A child's entries do not change with its parent's."""
    parent, child = PageTable(), PageTable()
    for page in range(0, 40, 2):
        parent.put(page, page + 1, ANON | WRITE, page)
    parent.copy_to(child, 0, LEAF_PAGES)
    parent.recode(0, LEAF_PAGES, WRITE)
    assert (parent.get(2), child.get(2)) == ((ANON, 2), (ANON | WRITE, 2))


def test_a_fork_makes_tables_where_there_are_empty_ones():
    """The kernel allocates the child's table before it looks into the parent's."""
    parent, child = PageTable(), PageTable()
    parent.ensure(700)
    assert parent.copy_to(child, 0, TOP) == []
    assert child.leaves == {1: ()}


def test_taking_leaves_tables_and_names_those_emptied_whole():
    """A table that the range covers in part is not named, nor is one that keeps an entry."""
    table = PageTable()
    table.put(0, 3 * LEAF_PAGES, ANON, 1)
    table.put(600, 601, GUARD, 0)
    runs, emptied = table.take(1, 3 * LEAF_PAGES, keep=(GUARD,))
    assert sum(last - first for first, last, _, _ in runs) == 3 * LEAF_PAGES - 2
    assert emptied == [2]
    assert table.runs(0, TOP) == [(0, 1, ANON, 1), (600, 601, GUARD, 0)]
    assert sorted(table.leaves) == [0, 1, 2]


def test_a_table_that_was_empty_already_is_named_too():
    """PT_RECLAIM frees a table that it finds empty, whoever emptied it."""
    table = PageTable()
    table.ensure(0)
    assert table.take(0, LEAF_PAGES) == ([], [0])


def test_a_huge_entry_takes_its_table_along():
    """The table was only held in deposit: zapping the huge entry frees it, on every kernel."""
    table = PageTable()
    table.put(512, 1024, ANON | HUGE, 4096)
    assert table.table_bytes() == (TABLE_BYTES, TABLE_BYTES, TABLE_BYTES)
    assert table.take(0, 2048) == ([(0, 512, ANON | HUGE, 4096)], [])
    assert table.table_bytes() == (0, TABLE_BYTES, TABLE_BYTES)


@pytest.mark.parametrize("kind", [FILE, SHMEM, HUGETLB])
def test_huge_entries_of_the_page_cache_hold_no_table(kind):
    """What can be found again in the page cache needs no table in deposit; VmPTE does not count one."""
    table = PageTable()
    table.put(512, 1024, kind | HUGE, 4096)
    assert table.table_bytes(1) == (0,)


def test_a_split_huge_entry_is_one_run_of_pages():
    """The same frames, mapped one by one."""
    table = PageTable()
    table.put(512, 1024, ANON | HUGE | WRITE, 4096)
    table.split_huge(1)
    table.clear(513, 1024)
    assert table.runs(0, TOP) == [(512, 513, ANON | WRITE, 4096)]


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table.clear(512, 513),
        lambda table: table.take(600, 1024),
        lambda table: table.put(700, 701, ANON, 1),
        lambda table: table.recode(700, 1024, WRITE),
        lambda table: table.put(2048, 2049, ANON | HUGE, 1),
        lambda table: table.move(512, 1024, 2049),
        lambda table: table.drop_leaf(1),
        lambda table: table.split_huge(0),
        lambda table: table.recode(0, 2048, KIND),
    ],
)
def test_a_mistake_of_the_caller_is_an_assertion(change):
    """Part of a huge entry, a table in use, a kind for a flag: none of these is passed over in silence."""
    table = PageTable()
    table.put(0, 1, ANON, 1)
    table.put(512, 1024, ANON | HUGE | WRITE, 4096)
    with pytest.raises(AssertionError):
        change(table)


def test_gaps_of_a_wide_range_are_not_enumerated():
    """One gap for each stretch without entries, however many tables are missing in it."""
    table = PageTable()
    table.put(TOP // 2, TOP // 2 + 1, ANON, 1)
    assert table.segments(0, TOP) == [
        (0, TOP // 2, 0, 0),
        (TOP // 2, TOP // 2 + 1, ANON, 1),
        (TOP // 2 + 1, TOP, 0, 0),
    ]


def test_an_empty_range_is_nothing():
    """No method makes a table for it, nor finds anything in it."""
    table = PageTable()
    table.put(7, 7, ANON, 1)
    assert table.fill(512, 512, ANON, _Frames()) == 0
    assert (table.runs(9, 9), table.segments(9, 9), table.take(9, 9)) == ([], [], ([], []))
    assert table.free_tables(9, 9, 0, 0) == 0
    assert table.leaves == {}


def test_tables_go_only_between_what_is_mapped():
    """A table that a neighbour may use stays; so do the levels above it."""
    table = PageTable()
    table.ensure(0)
    table.ensure(LEAF_PAGES)
    assert table.free_tables(100, 2 * LEAF_PAGES, floor=90, ceiling=2 * LEAF_PAGES) == 1
    assert (sorted(table.leaves), table.pmds, table.puds) == ([0], {0}, {0})
    assert table.free_tables(0, 100, floor=0, ceiling=0) == 3
    assert (table.leaves, table.pmds, table.puds) == ({}, set(), set())


def test_moving_leaves_the_old_tables_and_makes_the_new():
    """Until what was mapped there is unmapped, an emptied table stays."""
    table = PageTable()
    table.put(10, 20, ANON, 5)
    table.move(10, 20, 1020)
    assert table.runs(0, TOP) == [(1020, 1024, ANON, 5), (1024, 1030, ANON, 9)]
    assert sorted(table.leaves) == [0, 1, 2]


def test_whole_tables_move_as_they_are():
    """Where a table's place is free, the table itself is handed over, and none is left behind."""
    table = PageTable()
    table.put(10, 20, ANON, 5)
    table.move(0, 512, 1024, whole_tables=True)
    assert table.runs(0, TOP) == [(1034, 1044, ANON, 5)]
    assert sorted(table.leaves) == [2]
