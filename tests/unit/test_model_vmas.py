"""The ordered set of mappings: found, split, merged and removed as a plain sorted list would have it."""

from __future__ import annotations

import random

import pytest

from dontneed.model.space import vma as vm
from dontneed.model.space.vma import Vma, is_mergeable
from dontneed.model.space.vmas import Vmas

RW = vm.READ | vm.WRITE
MANY = 1500
"""Mappings in more than two blocks."""
END = 8 * MANY


def mapping(first, last, flags=RW):
    """Anonymous memory."""
    return Vma(first, last, flags, None, first)


def spans(vmas):
    return [(each.first, each.last) for each in vmas]


@pytest.fixture
def many():
    """Mappings of four pages, four pages apart, inserted in a random order."""
    vmas = Vmas()
    each = [mapping(8 * number, 8 * number + 4) for number in range(MANY)]
    random.Random(2).shuffle(each)  # noqa: S311 - a test
    for vma in each:
        vmas.insert(vma)
    return vmas


def test_mappings_are_in_order_however_they_came(many):
    """Across blocks too."""
    assert len(many) == MANY
    assert spans(many) == [(8 * number, 8 * number + 4) for number in range(MANY)]


def test_a_page_is_found_in_its_mapping_and_nowhere_else(many):
    """Or the next mapping above, or the last that begins below."""
    for number in range(MANY):
        assert many.find(8 * number + 3).first == 8 * number
        assert many.find(8 * number + 4) is None
        assert many.find_from(8 * number).first == 8 * number
    for number in range(MANY - 1):
        assert many.find_from(8 * number + 4).first == 8 * number + 8
        assert many.before(8 * number + 8).first == 8 * number
    assert many.find_from(END) is None
    assert many.before(0) is None


def test_nothing_is_found_where_nothing_is():
    """An empty set answers too."""
    vmas = Vmas()
    assert (vmas.find(1), vmas.find_from(1), vmas.before(1), vmas.within(0, 9), len(vmas)) == (None, None, None, [], 0)


def test_a_split_leaves_the_object_below_and_counts_pages_on(many):
    """The upper part goes on in the file, or in the order of anonymous pages, where the lower one ends."""
    whole = many.find(8)
    many.split(10)
    upper = many.find(10)
    assert (whole.first, whole.last, whole.offset) == (8, 10, 8)
    assert (upper.first, upper.last, upper.offset) == (10, 12, 10)
    many.split(10)
    many.split(13)
    assert len(many) == MANY + 1


def test_neighbours_that_say_the_same_merge():
    """Both sides at once; the lowest object stays."""
    vmas = Vmas()
    low, middle, high = mapping(0, 4), mapping(4, 8), mapping(8, 12)
    for each in (low, high, middle):
        vmas.insert(each)
    assert vmas.merge(middle) is low
    assert spans(vmas) == [(0, 12)]


def test_a_fork_s_inheritance_and_two_identities_keep_mappings_apart():
    """One anon_vma can be taken over, two cannot be one; what was inherited is not shared with a neighbour."""
    vmas = Vmas()
    low, middle, high = mapping(0, 4), mapping(4, 8), mapping(8, 12)
    low.anon_vma, high.anon_vma = vm.new_anon_vma(), vm.new_anon_vma()
    for each in (low, middle, high):
        vmas.insert(each)
    assert vmas.merge(middle) is low  # and not with the upper one as well
    assert spans(vmas) == [(0, 8), (8, 12)]
    low.anon_vma = high.anon_vma
    low.inherited = True
    assert is_mergeable(low, high)
    high.anon_vma = 0
    assert not is_mergeable(low, high)


@pytest.mark.parametrize(
    "change",
    [{"flags": vm.READ}, {"offset": 5}, {"name": "[heap]"}, {"file": object()}, {"flags": RW | vm.IO}, {"first": 5}],
    ids=lambda change: next(iter(change)),
)
def test_mappings_that_differ_do_not_merge(change):
    """In rights, in what they map and from where, in name; special ones and those with a gap never do."""
    low, high = mapping(0, 4), mapping(4, 8)
    assert is_mergeable(low, high)
    for name, value in change.items():
        setattr(high, name, value)
    assert not is_mergeable(low, high)


def test_guard_markers_hinder_no_merge_and_are_remembered():
    """VM_MAYBE_GUARD is sticky."""
    vmas = Vmas()
    vmas.insert(mapping(0, 4))
    vmas.insert(guarded := mapping(4, 8, RW | vm.MAYBE_GUARD))
    assert vmas.merge(guarded).flags & vm.MAYBE_GUARD


def test_a_stack_grows_down_in_its_place(many):
    """The mapping is found at its new first page, and neighbours as before."""
    many.grow_down(many.find(16), 13)
    assert many.find(13).last == 20
    assert many.find(13).offset == 13
    assert many.find(12) is None
    assert many.before(13).first == 8


def test_flags_between_are_those_of_any_mapping_met(many):
    """Of the range and nothing beside it."""
    many.find(16).flags |= vm.LOCKED
    assert many.flags_between(8, 17) & vm.LOCKED
    assert not many.flags_between(8, 16) & vm.LOCKED


class PlainList:
    """What Vmas must agree with: (first, last, number) in a sorted list."""

    def __init__(self):
        self.rows = []

    def within(self, first, last):
        """The rows that meet a range."""
        return [row for row in self.rows if row[0] < last and first < row[1]]

    def split(self, page):
        """Cut the row that a page lies in."""
        for row in self.within(page, page + 1):
            if row[0] < page:
                self.rows.remove(row)
                self.rows += [(row[0], page, row[2]), (page, row[1], row[2])]
        self.rows.sort()

    def remove(self, first, last):
        """Drop the rows that lie in a range."""
        self.rows = [row for row in self.rows if not (first <= row[0] and row[1] <= last)]

    def insert(self, first, last, number):
        """Add a row."""
        self.rows.append((first, last, number))
        self.rows.sort()

    def merge(self, first):
        """Join a row with neighbours of its number."""
        index = next(index for index, row in enumerate(self.rows) if row[0] == first)
        for lower in (index, index - 1):
            if 0 <= lower < len(self.rows) - 1:
                low, high = self.rows[lower], self.rows[lower + 1]
                if low[1] == high[0] and low[2] == high[2]:
                    self.rows[lower : lower + 2] = [(low[0], high[1], low[2])]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_thousand_random_changes_agree_with_a_plain_list(seed):
    """Map over, unmap, split and merge, with two blocks and more in between, down to nothing."""
    dice = random.Random(seed)  # noqa: S311 - a test
    vmas, plain = Vmas(), PlainList()
    most = 0
    for step in range(6000):
        first = dice.randrange(4096)
        last = min(4096, first + dice.choice((1, 1, 1, 2, 3, 5, 30)))
        for each in (vmas, plain):
            each.split(first)
            each.split(last)
            each.remove(first, last)
        if dice.random() < 0.9:
            number = dice.randrange(50)
            vma = mapping(first, last, RW | number << 50)
            vmas.insert(vma)
            plain.insert(first, last, number)
            assert vmas.merge(vma).first <= first
            plain.merge(first)
        most = max(most, len(plain.rows))
        if step % 100 == 0:
            assert [(each.first, each.last, each.flags >> 50) for each in vmas] == plain.rows
            assert len(vmas) == len(plain.rows)
        low = dice.randrange(4096)
        met = plain.within(low, low + 9)
        assert spans(vmas.within(low, low + 9)) == [row[:2] for row in met]
        here = plain.within(low, low + 1)
        assert spans(filter(None, [vmas.find(low)])) == [row[:2] for row in here]
    assert most > 1024
    vmas.remove(0, 4096)
    assert (len(vmas), list(vmas), vmas.find_from(0)) == (0, [], None)
