"""The accounts of what madvise took away: page by page, and whole page tables at once."""

from __future__ import annotations

import random

import pytest

from dontneed.lab.replayed.advices import Accounts
from dontneed.lab.replayed.events import Call
from dontneed.model.calls.advice import madvise
from dontneed.model.calls.mappings import mmap
from dontneed.model.paging.faults import touch
from dontneed.model.space.mm import Mm
from dontneed.model.space.vma import READ, WRITE
from dontneed.model.system import System

FIRST, SLOT = 0x4_0000, 512
PAGE_SHIFT = 12
DONTNEED = 4


@pytest.fixture
def mm():
    """Four page tables' worth of memory, all touched."""
    mm = Mm(System("6.18"))
    mmap(mm, FIRST, FIRST + 4 * SLOT, READ | WRITE)
    touch(mm, FIRST, FIRST + 4 * SLOT, write=True)
    return mm


def advised(mm, accounts, first, pages, advice=DONTNEED):
    """A madvise, accounted for; its account."""
    call = Call(28, "madvise", (first << PAGE_SHIFT, pages << PAGE_SHIFT, advice), 0, 1, 10, 20)
    present = accounts.before(mm, call)
    before = mm.rss_pages
    madvise(mm, *call.arguments)
    accounts.after(mm, call, present, before - mm.rss_pages)
    return accounts.all[-1]


def test_whole_page_tables_are_accounted_for_as_one_and_taken_apart_by_a_touch(mm):
    """A call over a tebibyte must not make an entry for each page."""
    accounts = Accounts()
    account = advised(mm, accounts, FIRST, 3 * SLOT + 1)
    assert (account.zapped_pages, len(accounts.slots), len(accounts.pages)) == (3 * SLOT + 1, 3, 1)
    page = FIRST + SLOT + 7
    assert accounts.is_awaited(page)
    accounts.touched(page, 99, 1)
    assert not accounts.is_awaited(page)
    assert (len(accounts.slots), len(accounts.pages)) == (2, SLOT)
    assert (account.touches, account.brought_pages) == ([99], 1)
    accounts.touched(FIRST, 100, SLOT)
    assert not accounts.is_awaited(FIRST + 5)  # all of them came


def test_a_page_that_was_read_first_is_one_refault_and_brings_what_its_first_write_does(mm):
    """The zero page takes no memory; the write behind it does."""
    accounts = Accounts()
    account = advised(mm, accounts, FIRST, 3)
    for time, brought in ((30, 0), (40, 0), (50, 1)):
        assert accounts.is_awaited(FIRST)
        accounts.touched(FIRST, time, brought)
    assert not accounts.is_awaited(FIRST)
    assert (account.touches, account.brought_pages) == ([30], 1)
    accounts.touched(FIRST + 1, 60, 0)
    accounts.forget(FIRST, FIRST + 3)
    assert not accounts.is_awaited(FIRST + 1)


def test_a_part_of_a_page_table_of_which_something_else_becomes_leaves_the_rest(mm):
    """Unmapping some pages of it."""
    accounts = Accounts()
    advised(mm, accounts, FIRST, 2 * SLOT)
    accounts.forget(FIRST + 10, FIRST + SLOT + 10)
    awaited = [accounts.is_awaited(FIRST + page) for page in range(2 * SLOT)]
    assert awaited == [True] * 10 + [False] * SLOT + [True] * (SLOT - 10)


@pytest.mark.parametrize("seed", range(8))
def test_each_page_is_the_account_of_the_last_call_that_took_it(mm, seed):
    """Held against a dict with an entry for each page."""
    chance = random.Random(seed)  # noqa: S311 - it is to be the same each time
    accounts, expected = Accounts(), {}
    for step in range(60):
        first = chance.randrange(4 * SLOT)
        pages = chance.choice((1, 3, 100, SLOT, 2 * SLOT))
        if chance.random() < 0.3:
            first = first // SLOT * SLOT
        pages = min(pages, 4 * SLOT - first)
        start = FIRST + first
        deed = chance.random()
        if deed < 0.4:
            there = [page for page in range(start, start + pages) if mm.table.get(page)[0]]
            account = advised(mm, accounts, start, pages)
            assert account.zapped_pages == len(there)
            expected.update(dict.fromkeys(there, account))
        elif deed < 0.5:
            accounts.forget(start, start + pages)
            for page in range(start, start + pages):
                expected.pop(page, None)
        else:
            for page in range(start, start + min(pages, 40)):
                assert accounts.is_awaited(page) == (page in expected), (step, page)
                if page in expected:
                    before = len(expected[page].touches)
                    accounts.touched(page, step, 1)
                    assert len(expected.pop(page).touches) == before + 1
                touch(mm, page, page + 1, write=True)
    assert {page for page in range(FIRST, FIRST + 4 * SLOT) if accounts.is_awaited(page)} == set(expected)
