"""Counting page-table entries by mapping: the fast way says what counting one by one says."""

from __future__ import annotations

import random

import numpy as np
import pytest

from dontneed.abi.page_entry import (
    ACCESSED,
    DIRTY,
    FRAME_SHIFT,
    GUARD_MARKER,
    HUGE,
    MARKER_TYPE,
    PRESENT,
    PROT_NONE,
    SAVED_DIRTY,
    SPECIAL,
    USER,
    WRITABLE,
    swap_entry,
)
from dontneed.observe.tables.branches import BranchReader
from dontneed.observe.tables.counts import COUNTED, TableCounts
from dontneed.observe.tables.plain_counts import PlainCounts

from .table_world import ONLY_READ, PAGE, WRITTEN, ZERO_FRAME, TableWorld, table_of_mappings

START = 0x7F00_0000_0000
MIB2 = 2 << 20
NEW = (6, 18)
SORTS = {
    "written": WRITTEN | 99 << FRAME_SHIFT,
    "clean": PRESENT | USER | ACCESSED | 98 << FRAME_SHIFT,
    "old": PRESENT | USER | WRITABLE | 97 << FRAME_SHIFT,
    "was dirty": PRESENT | USER | ACCESSED | SAVED_DIRTY | 96 << FRAME_SHIFT,
    "zero": ONLY_READ,
    "device": PRESENT | USER | SPECIAL | ACCESSED | 95 << FRAME_SHIFT,
    "closed": ~(94 << FRAME_SHIFT) & (1 << 52) - 1 & ~0xFFF | PROT_NONE | ACCESSED | DIRTY,
    "swap": swap_entry(1, 1234, NEW),
    "guard": swap_entry(MARKER_TYPE, GUARD_MARKER, NEW),
    "migrating": swap_entry(25, 77, NEW),
    "none": 0,
}
COUNTS = {
    "written": ("rss", "accessed", "dirty"),
    "clean": ("rss", "accessed"),
    "old": ("rss",),
    "was dirty": ("rss", "accessed", "dirty"),
    "zero": ("zero",),
    "device": ("special",),
    "closed": ("rss", "accessed", "dirty"),
    "swap": ("swapped",),
}


@pytest.fixture(params=[(TableCounts, 1024), (PlainCounts, 64)], ids=["arrays", "plain"])
def counted(request):
    """What counts the pages of a process's mappings."""
    counting, most_pages = request.param

    def count(world, task, spans):
        counts = counting(table_of_mappings(*spans), ZERO_FRAME)
        for branch in BranchReader(world, task, most_pages):
            counts.add(branch)
        return counts

    return count


def listed(column):
    """A column as a list, whatever it is."""
    return np.asarray(column).tolist()


@pytest.mark.parametrize("sort", SORTS)
def test_each_sort_of_entry_is_counted_as_what_it_is(counted, sort):
    """One alone, and a table full of it, which takes the fast way."""
    for pages in (1, 512):
        world = TableWorld()
        task = world.process()
        for nth in range(pages):
            world.map(task, START + nth * PAGE, SORTS[sort])
        counts = counted(world, task, [(START, START + MIB2)])
        expected = dict.fromkeys(COUNTS.get(sort, ()), pages * PAGE)
        assert {name: int(getattr(counts, name)[0]) for name in COUNTED} == dict.fromkeys(COUNTED, 0) | expected


@pytest.mark.parametrize("seed", range(8))
def test_mappings_of_any_shape_get_what_is_theirs(counted, seed):
    """Mappings that share tables, cover many, or lie apart, with pages of every sort, counted one by one as well."""
    dice = random.Random(seed)  # noqa: S311 - repeatable, and no secret
    world = TableWorld()
    task = world.process()
    spans, address = [], START + dice.randrange(600) * PAGE
    for _ in range(30):
        pages = dice.choice((1, 2, 7, 300, 512, 1500))
        spans.append((address, address + pages * PAGE))
        address += (pages + dice.choice((0, 0, 1, 400, 3000))) * PAGE
    expected = {name: np.zeros(len(spans), np.int64) for name in COUNTED}
    for row, (start, end) in enumerate(spans):
        alike = dice.choice((None, "written", "clean", "zero"))
        for page in range(start, end, PAGE):
            sort = alike or dice.choice(tuple(SORTS))
            world.map(task, page, SORTS[sort])
            for name in COUNTS.get(sort, ()):
                expected[name][row] += PAGE
    counts = counted(world, task, spans)
    for name in COUNTED:
        assert listed(getattr(counts, name)) == expected[name].tolist(), name
    assert counts.unmatched_bytes == 0


def test_huge_pages_are_counted_whole_and_their_zero_page_apart(counted, monkeypatch):
    """An entry of a PMD is 2 MiB, one of a PUD 1 GiB; the huge zero page is known by its frame alone."""
    world = TableWorld()
    task = world.process()
    world.map(task, START, level=1)
    world.map(task, START + MIB2, PRESENT | USER | HUGE | ACCESSED | 0x600 << FRAME_SHIFT, level=1)
    world.map(task, START + 2 * MIB2, PRESENT | USER | HUGE | ACCESSED | 0x800 << FRAME_SHIFT, level=1)
    world.map(task, START + (1 << 30), level=2)
    world.map(task, START + 3 * MIB2, swap_entry(0, 5, NEW), level=1)
    flags = {0x600: 1 << 24, 0x800: 0}
    monkeypatch.setattr("dontneed.observe.tables.huge_zero.read_flags_of", lambda _frames: flags)
    counts = counted(world, task, [(START, START + 4 * MIB2), (START + (1 << 30), START + (2 << 30))])
    assert listed(counts.rss) == [2 * MIB2, 1 << 30]
    assert listed(counts.huge) == listed(counts.rss)
    assert listed(counts.zero) == [MIB2, 0]
    assert listed(counts.swapped) == [MIB2, 0]
    assert listed(counts.dirty) == [MIB2, 1 << 30]


def test_pages_in_no_mapping_are_told(counted):
    """The table of mappings is older than the page tables."""
    world = TableWorld()
    task = world.process()
    for nth in range(512):
        world.map(task, START + nth * PAGE)
    world.map(task, START + MIB2, level=1)
    counts = counted(world, task, [(START + 4 * PAGE, START + 6 * PAGE)])
    assert listed(counts.rss) == [2 * PAGE]
    assert counts.unmatched_bytes == 510 * PAGE + MIB2


def test_a_process_without_mappings_is_counted_too(counted):
    """Between maps and the tables everything may have come."""
    world = TableWorld()
    task = world.process()
    world.map(task, START)
    assert counted(world, task, []).unmatched_bytes == PAGE
