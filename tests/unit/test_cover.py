"""Ranges of addresses with a number: the quick way says what a page-by-page one says."""

from __future__ import annotations

import random

import numpy as np

from dontneed.observe.trace.cover import NOTHING, Cover


def test_ranges_are_what_setting_page_by_page_makes_of_them():
    """Random ranges set and taken away, in every position to each other, beside an array with a cell for each page."""
    dice = random.Random(5)  # noqa: S311 - the same ranges each time
    for _ in range(40):
        cover, pages = Cover(), [NOTHING] * 60
        for _ in range(25):
            start = dice.randrange(60)
            end = dice.randrange(start, 61)
            value = dice.choice([None, dice.randrange(9)])
            cover.set(start, end, value)
            pages[start:end] = [NOTHING if value is None else value] * (end - start)
            assert cover.look_up(np.arange(60, dtype=np.uint64)).tolist() == pages
            inside = [(page, value) for low, high, value in cover.within(10, 40) for page in range(low, high)]
            assert inside == [(page, pages[page]) for page in range(10, 40) if pages[page] != NOTHING]


def test_a_copy_is_changed_apart():
    """As the mappings of a child."""
    cover = Cover()
    cover.set(0, 10, 1)
    copy = cover.copy()
    copy.set(5, 10, None)
    everywhere = np.array([7], np.uint64)
    assert (cover.look_up(everywhere)[0], copy.look_up(everywhere)[0]) == (1, NOTHING)
