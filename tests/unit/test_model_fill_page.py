"""The short way of a write to one page: it does what the long way does, or says that it has done nothing."""

from __future__ import annotations

import random

import pytest

from dontneed.model.calls.advice import madvise
from dontneed.model.calls.mappings import mmap
from dontneed.model.memory.page_cache import CachedPages, File
from dontneed.model.paging.faults import fill_page, touch
from dontneed.model.space.entries import FILE
from dontneed.model.space.mm import Mm
from dontneed.model.space.vma import READ, WRITE
from dontneed.model.system import System

FIRST, PAGES = 0x4_0000, 1100
PAGE_SHIFT = 12


def world(huge="never"):
    """An address space with memory to write to."""
    system = System("6.18")
    system.huge_enabled = huge
    mm = Mm(system)
    mmap(mm, FIRST, FIRST + PAGES, READ | WRITE)
    return mm


def state(mm):
    """All that a touch may change."""
    return mm.table.runs(FIRST, FIRST + PAGES), mm.resident, mm.minor_faults, mm.system.frames.in_use


@pytest.mark.parametrize("order", ["ascending", "descending", "every second", "random"])
@pytest.mark.parametrize("huge", ["never", "always"])
def test_it_does_what_a_touch_does(order, huge):
    """Whatever the order is in which pages are touched, and whatever is discarded in between."""
    chance = random.Random(order)  # noqa: S311 - it is to be the same each time
    pages = list(range(FIRST, FIRST + PAGES))
    if order == "descending":
        pages.reverse()
    elif order == "every second":
        pages = pages[::2] + pages[1::2]
    elif order == "random":
        chance.shuffle(pages)
    short, long = world(huge), world(huge)
    done = 0
    for nth, page in enumerate(pages):
        if fill_page(short, short.vmas.find(page), page):
            done += 1
        else:
            touch(short, page, page + 1, write=True)
        touch(long, page, page + 1, write=True)
        if nth % 97 == 0:
            start = chance.randrange(PAGES - 64)
            for mm in (short, long):
                madvise(mm, FIRST + start << PAGE_SHIFT, 40 << PAGE_SHIFT, 4)
            assert state(short) == state(long), nth
    assert state(short) == state(long)
    assert done > (0 if huge == "always" else PAGES * 0.9)


def test_what_is_not_plain_is_left_to_the_long_way():
    """No page table yet, a page that is there, memory that cannot be written to, files."""
    mm = world()
    vma = mm.vmas.find(FIRST)
    assert not fill_page(mm, vma, FIRST)  # it has never held a page
    touch(mm, FIRST, FIRST + 1, write=True)
    before = state(mm)
    assert not fill_page(mm, vma, FIRST)
    assert not fill_page(mm, vma, FIRST + 600)  # of another page table
    mmap(mm, FIRST + 10, FIRST + 20, READ)
    assert not fill_page(mm, mm.vmas.find(FIRST + 10), FIRST + 10)
    mmap(mm, FIRST + 20, FIRST + 30, READ | WRITE, file=mm.system.new_file("file", 10, kind=FILE))
    touch(mm, FIRST + 20, FIRST + 21, write=True)
    assert not fill_page(mm, mm.vmas.find(FIRST + 20), FIRST + 21)
    assert state(mm)[0][: len(before[0])] == before[0]


def test_a_file_that_is_cached_whole_has_each_frame_once_and_in_rows():
    """However large it is said to be; what is mapped around a page is one run then."""
    mm = world()
    file = File(mm.system, "large", 1 << 40, kind=FILE)
    file.cache = CachedPages(mm.system.frames)
    frames = [file.cache[page] for page in range(1000, 1100)]
    assert len(set(frames)) == len(frames)
    assert [file.frame(page) for page in range(1000, 1100)] == frames
    assert 1 << 39 in file.cache
    pages = sum(count for _, count, _ in file.cached_runs(500, 2000))
    assert pages == 1500
    mmap(mm, FIRST, FIRST + 64, READ, file=file, offset=1024)
    touch(mm, FIRST + 5, FIRST + 6, write=False)
    ((start, end, _, frame),) = mm.table.runs(FIRST, FIRST + 64)
    assert (end - start, frame) == (16, file.cache[1024])


def test_the_rows_of_a_cache_end_where_a_page_or_its_frame_does_not_follow():
    """Page after page, and frame after frame."""
    system = System("6.18")
    file = File(system, "file", 10, kind=FILE)
    file.cache.update({0: 50, 1: 51, 3: 60, 4: 62, 5: 63})
    assert list(file.cached_runs(0, 10)) == [(0, 2, 50), (3, 1, 60), (4, 2, 62)]
    assert list(file.cached_runs(1, 2)) == [(1, 1, 51)]
    assert list(file.cached_runs(6, 10)) == []
