"""Spans in slices, and together again: nothing is lost, and no slice is larger than asked for."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from dontneed import Spans
from dontneed.observe.slices import in_slices, together
from dontneed.units import HUGE_PAGE_BYTES, PAGE_BYTES

bounded = settings(max_examples=150, deadline=None, derandomize=True, database=None)

some_spans = st.lists(st.tuples(st.integers(0, 300), st.integers(1, 40)), max_size=12).map(
    lambda rows: Spans([(first * PAGE_BYTES, (first + pages) * PAGE_BYTES) for first, pages in rows])
)


@bounded
@given(some_spans, st.integers(1, 50))
def test_slices_are_full_but_the_last_and_make_up_the_whole(spans, pages):
    """Each is what a stop, or a call, may take."""
    slices = list(in_slices(spans, pages * PAGE_BYTES))
    assert together(slices) == spans
    assert sum(part.pages for part in slices) == spans.pages
    assert all(part.pages == pages for part in slices[:-1])
    assert all(0 < part.pages <= pages for part in slices[-1:])


@bounded
@given(st.lists(st.integers(0, 40), max_size=20), st.integers(1, 5))
def test_slices_of_huge_pages_hold_whole_ones(pages, count):
    """A huge page that is cut frees nothing."""
    spans = Spans([(page * HUGE_PAGE_BYTES, (page + 1) * HUGE_PAGE_BYTES) for page in pages])
    for part in in_slices(spans, count * HUGE_PAGE_BYTES):
        assert part.inward_huge() == part


def test_nothing_is_in_no_slices():
    """And together it is nothing again."""
    assert list(in_slices(Spans(), PAGE_BYTES)) == []
    assert together([]) == Spans()
