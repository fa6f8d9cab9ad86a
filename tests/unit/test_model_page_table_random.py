"""The modelled page table against one that cannot be wrong: a dict of entries and sets of tables, page by page."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from dontneed.model.space.entries import (
    ANON,
    CONSTANT,
    DIRTY,
    FILE,
    GUARD,
    HUGE,
    KIND,
    LEAF_PAGES,
    POISON,
    PRESENT,
    SHMEM,
    SWAP,
    WRITE,
    YOUNG,
    ZERO,
)
from dontneed.model.space.leaf import MOST_RUNS, Patchwork
from dontneed.model.space.page_table import PageTable

PUD_PAGES = 1 << 27
ARENAS = (0, PUD_PAGES - 3 * LEAF_PAGES, 5 * PUD_PAGES)
"""Where ranges are drawn: at the bottom, across a boundary of all levels, and far above."""
ARENA_PAGES = 6 * LEAF_PAGES
TOP = 1 << 36
TABLE_BYTES = 4096

CODES = (ANON, ANON | WRITE, ANON | WRITE | DIRTY | YOUNG, FILE, SHMEM | WRITE, ZERO, SWAP, GUARD, POISON)
HUGE_CODES = (ANON | HUGE, ANON | HUGE | WRITE, ZERO | HUGE, SHMEM | HUGE, FILE | HUGE)
KEEPS = ((), (GUARD,), (GUARD, SWAP, ANON))
FLAGS = (WRITE, DIRTY | YOUNG, WRITE | YOUNG)


def step_of(code):
    """How far the value goes from one page to the next."""
    return 0 if code & KIND in CONSTANT else 1


class _Frames:
    """Values in order, as an allocator would give them; `asked` remembers for how many."""

    def __init__(self, following=1_000):
        self.following = following
        self.asked = []

    def __call__(self, pages):
        self.asked.append(pages)
        self.following += pages
        return self.following - pages


class _Plain:
    """The reference: every method says page by page what the page table's method does."""

    def __init__(self, levels=4):
        self.levels = levels
        self.entries = {}
        self.tables = {9: set(), 18: set(), 27: set(), 36: set()}

    def ensure(self, vpn):
        for shift, numbers in self.tables.items():
            if shift < 36 or self.levels == 5:
                numbers.add(vpn >> shift)

    def put(self, first, last, code, value):
        for page in range(first, last):
            self.ensure(page)
            self.entries[page] = (code, value + step_of(code) * (page - first))

    def fill(self, first, last, code, allocate):
        filled, before = 0, None
        for page in range(first, last):
            self.ensure(page)
            if page not in self.entries:
                if page - 1 != before or page % LEAF_PAGES == 0:
                    gap = 1
                    while (page + gap) % LEAF_PAGES and page + gap < last and page + gap not in self.entries:
                        gap += 1
                    start, value = page, allocate(gap)
                before = page
                self.entries[page] = (code, value + step_of(code) * (page - start))
                filled += 1
        return filled

    def remove(self, first, last, keep=()):
        """What take removes, page by page; a huge entry takes its table along."""
        gone = {}
        for page in range(first, last):
            code = self.entries.get(page, (0, 0))[0]
            if code and code & KIND not in keep:
                gone[page] = self.entries.pop(page)
                if code & HUGE:
                    self.tables[9].discard(page >> 9)
        return gone

    def empty_tables(self, first, last):
        numbers = range(-(-first // LEAF_PAGES), last // LEAF_PAGES)
        return [number for number in numbers if number in self.tables[9] and not self.in_table(number)]

    def in_table(self, number):
        return [page for page in range(number << 9, (number + 1) << 9) if page in self.entries]

    def recode(self, first, last, clear, add):
        for page in range(first, last):
            code, value = self.entries.get(page, (0, 0))
            if code & KIND in PRESENT:
                self.entries[page] = (code & ~clear | add, value)

    def free_tables(self, first, last, floor, ceiling):
        freed = 0
        for shift, numbers in self.tables.items():
            for number in sorted(numbers):
                start, end = number << shift, (number + 1) << shift
                if start < last and end > first and start >= floor and (not ceiling or end <= ceiling):
                    numbers.remove(number)
                    freed += 1
        return freed

    def move(self, first, last, to, *, whole_tables):
        for number in sorted(self.tables[9]):
            start, end = max(number << 9, first), min((number + 1) << 9, last)
            if start >= end:
                continue
            target = start + to - first
            is_fresh = target >> 9 not in self.tables[9]
            moved = self.remove(start, end)
            for page in range(target, target + end - start):
                self.ensure(page)
            for page, entry in moved.items():
                self.entries[page + to - first] = entry
            if whole_tables and end - start == LEAF_PAGES and target % LEAF_PAGES == 0 and is_fresh:
                self.tables[9].discard(number)

    def table_bytes(self):
        bare = {page >> 9 for page, (code, _) in self.entries.items() if code & HUGE and code & KIND in (FILE, SHMEM)}
        counts = [len(numbers) for numbers in self.tables.values()]
        return (TABLE_BYTES * (counts[0] - len(bare)), *(TABLE_BYTES * count for count in counts[1:]))


def pages_of(runs):
    """Runs page by page: {page: (code, value)}."""
    return {
        page: (code, value + step_of(code) * (page - first))
        for first, last, code, value in runs
        for page in range(first, last)
    }


def assert_plainest_form(leaf):
    """A leaf has the form that its contents allow, and neighbours that go on from each other are joined."""
    if isinstance(leaf, Patchwork):
        assert len(leaf.codes) == len(leaf.values) == LEAF_PAGES
        assert sum(map(bool, leaf.codes)) > MOST_RUNS
        return
    runs = leaf if isinstance(leaf, list) else [leaf] if leaf else []
    assert not isinstance(leaf, list) or 2 <= len(leaf) <= MOST_RUNS
    assert all(0 <= first < last <= LEAF_PAGES and code & KIND for first, last, code, _ in runs)
    assert all(last - first == LEAF_PAGES for first, last, code, _ in runs if code & HUGE)
    for (first, last, code, value), (start, _, next_code, next_value) in pairwise(runs):
        assert last <= start
        assert (last, code, value + step_of(code) * (last - first)) != (start, next_code, next_value)


class _Both:
    """The page table and the reference, driven through the same random operations, compared after each."""

    def __init__(self, seed, levels=4):
        self.draw = random.Random(seed)  # noqa: S311 - the same on every run
        self.table, self.plain = PageTable(levels), _Plain(levels)
        self.forms = set()

    def range(self):
        """A range in one of the arenas: mostly small, often ending at the end of a table, now and then all of it."""
        draw = self.draw
        arena = draw.choice(ARENAS)
        pages = draw.choice((1, 1, 1, 1, 2, 5, 48, 300, LEAF_PAGES, draw.randrange(1, 3 * LEAF_PAGES)))
        first = draw.choice((draw.randrange(ARENA_PAGES), LEAF_PAGES * draw.randrange(6), draw.randrange(40)))
        if pages > 48 and draw.random() < 0.3:
            first, pages = LEAF_PAGES * (first // LEAF_PAGES), LEAF_PAGES * draw.choice((1, 1, 2, 3))
        return arena + first, arena + min(first + pages, ARENA_PAGES)

    def value(self):
        return self.draw.choice((self.draw.randrange(1, 1 << 40), 1_000_000, 1 << 40))

    def split_at_ends(self, first, last):
        """Split the huge entries that a range meets in part, as whoever edits them has to."""
        for page in (first, last):
            if page % LEAF_PAGES and self.plain.entries.get(page, (0, 0))[0] & HUGE:
                self.split(page >> 9)

    def split(self, number):
        self.table.split_huge(number)
        for page in range(number << 9, (number + 1) << 9):
            code, value = self.plain.entries[page]
            self.plain.entries[page] = (code & ~HUGE, value)

    def do_put(self, first, last):
        code, value = self.draw.choice(CODES), self.value()
        self.table.put(first, last, code, value)
        self.plain.put(first, last, code, value)

    def do_put_huge(self, first, last):
        first, last = first >> 9 << 9, (last + LEAF_PAGES - 1) >> 9 << 9
        code, value = self.draw.choice(HUGE_CODES), self.value()
        for start in range(first, last, LEAF_PAGES):
            self.table.put(start, start + LEAF_PAGES, code, value + start)
            self.plain.put(start, start + LEAF_PAGES, code, value + start)

    def do_fill(self, first, last):
        code, value = self.draw.choice(CODES), self.value()
        ours, theirs = _Frames(value), _Frames(value)
        assert self.table.fill(first, last, code, ours) == self.plain.fill(first, last, code, theirs)
        assert ours.asked == theirs.asked

    def do_touch_in_order(self, first, last):
        allocate = _Frames(self.value())
        again = _Frames(allocate.following)
        for page in range(first, min(last, first + 9)):
            assert self.table.fill(page, page + 1, ANON, allocate) == self.plain.fill(page, page + 1, ANON, again)

    def do_clear(self, first, last):
        self.table.clear(first, last)
        self.plain.remove(first, last)

    def do_take(self, first, last):
        keep = self.draw.choice(KEEPS)
        runs, emptied = self.table.take(first, last, keep)
        gone = self.plain.remove(first, last, keep)
        flat = [(page, *entry) for run in runs for page, entry in pages_of([run]).items()]
        assert flat == [(page % LEAF_PAGES, *entry) for page, entry in gone.items()]
        assert emptied == self.plain.empty_tables(first, last)

    def do_recode(self, first, last):
        clear, add = self.draw.choice(FLAGS), self.draw.choice((0, WRITE, YOUNG))
        self.table.recode(first, last, clear, add)
        self.plain.recode(first, last, clear, add)

    def do_ensure(self, first, _last):
        self.table.ensure(first)
        self.plain.ensure(first)

    def do_drop_leaf(self, first, _last):
        if not self.plain.in_table(first >> 9):
            self.table.drop_leaf(first >> 9)
            self.plain.tables[9].discard(first >> 9)

    def do_free_tables(self, first, last):
        floor = first - self.draw.choice((0, 7, 300, 2 * LEAF_PAGES, first))
        ceiling = last + self.draw.choice((0, 7, 300, 2 * LEAF_PAGES, PUD_PAGES, -last))
        floor, between = max(floor, 0), ceiling or TOP
        self.table.clear(first, last)
        self.plain.remove(first, last)
        in_the_way = [page for page in self.plain.entries if floor // LEAF_PAGES * LEAF_PAGES <= page < between]
        if not in_the_way:
            freed = self.table.free_tables(first, last, floor, ceiling)
            assert freed == self.plain.free_tables(first, last, floor, ceiling)

    def do_move(self, first, last):
        to, _ = self.range()
        if self.draw.random() < 0.5:
            to = to >> 9 << 9 | first % LEAF_PAGES
        end = to + last - first
        huge = any(self.plain.entries.get(page, (0, 0))[0] & HUGE for page in range(first, last))
        if (to < last and first < end) or (huge and (to - first) % LEAF_PAGES):
            return
        self.split_at_ends(to, end)
        whole_tables = self.draw.random() < 0.5
        self.do_clear(to, end)
        self.table.move(first, last, to, whole_tables=whole_tables)
        self.plain.move(first, last, to, whole_tables=whole_tables)

    def do_copy(self, first, last):
        child = PageTable(self.table.levels)
        if self.draw.random() < 0.5:
            child.put(last, last + 1, FILE, 3)
        runs = self.table.copy_to(child, first, last)
        entries = self.entries_in(first, last)
        assert pages_of(child.runs(first, last)) == entries
        assert sum(end - start for start, end, _, _ in runs) == len(entries)
        child.recode(first, last, WRITE)
        child.clear(first, last)
        assert child.runs(first, last) == []

    def entries_in(self, first, last):
        return {page: self.plain.entries[page] for page in range(first, last) if page in self.plain.entries}

    def compare(self, first, last):
        """What can be asked of a range has the same answers."""
        entries = self.entries_in(first, last)
        runs = self.table.runs(first, last)
        assert pages_of(runs) == entries
        assert all(start >> 9 == (end - 1) >> 9 for start, end, _, _ in runs)
        segments = self.table.segments(first, last)
        assert [segment for segment in segments if segment[2]] == runs
        assert [first, *(end for _, end, _, _ in segments)] == [*(start for start, _, _, _ in segments), last]
        for page in (first, (first + last) // 2, last - 1):
            assert self.table.get(page) == self.plain.entries.get(page, (0, 0))
        for number in range(first >> 9, (last >> 9) + 1):
            assert_plainest_form(self.table.leaves.get(number, ()))
            self.forms.add(type(self.table.leaves.get(number)))

    def compare_all(self):
        assert pages_of(self.table.runs(0, TOP)) == self.plain.entries
        tables = self.table
        assert [set(tables.leaves), tables.pmds, tables.puds, tables.p4ds] == list(self.plain.tables.values())
        assert self.table.table_bytes(4) == self.plain.table_bytes()

    def run(self, operations):
        kinds = [getattr(self, name) for name in sorted(dir(self)) if name.startswith("do_")]
        weights = [6 if kind in (self.do_put, self.do_fill, self.do_take, self.do_clear) else 2 for kind in kinds]
        for count in range(operations):
            first, last = self.range()
            operation = self.draw.choices(kinds, weights)[0]
            if operation != self.do_put_huge:
                self.split_at_ends(first, last)
            operation(first, last)
            self.compare(first, last)
            if count % 25 == 0:
                self.compare_all()
        self.compare_all()


@pytest.mark.parametrize(("seed", "levels"), [(1, 4), (2, 5), (3, 4)])
def test_random_operations_do_what_a_dict_of_pages_does(seed, levels):
    """All methods, in any order, on ranges that meet in all ways."""
    both = _Both(seed, levels)
    both.run(1500)
    assert both.forms >= {tuple, list, Patchwork}
