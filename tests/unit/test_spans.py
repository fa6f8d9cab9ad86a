"""`Span` and `Spans` against a model that cannot be wrong: a Python set of page numbers."""

from __future__ import annotations

import copy
import itertools
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dontneed
from dontneed.errors import UsageError, WrongType
from dontneed.spans import TOP, Span, Spans
from dontneed.units import HUGE_PAGE_BYTES, PAGE_BYTES

PAGES_IN_HUGE = HUGE_PAGE_BYTES // PAGE_BYTES
ISLAND_PAGES = 24
ISLANDS = (0, 0x7F00_0000_0000 // PAGE_BYTES, TOP // PAGE_BYTES - ISLAND_PAGES)
"""Ranges are drawn around a few page numbers, so that they meet; the ends of the address space are among them."""

bounded = settings(max_examples=80, deadline=None, derandomize=True, database=None)


def ranges_around(islands, most_pages):
    """Lists of (first page, page after the last), empty ranges among them, in any order."""
    offset = st.integers(0, most_pages)
    one = st.tuples(st.sampled_from(islands), offset, offset).map(
        lambda drawn: (drawn[0] + min(drawn[1:]), drawn[0] + max(drawn[1:]))
    )
    return st.lists(one, max_size=12)


page_ranges = ranges_around(ISLANDS, ISLAND_PAGES)
wide_ranges = ranges_around((0, TOP // PAGE_BYTES - 4 * PAGES_IN_HUGE), 4 * PAGES_IN_HUGE)
island_pages = st.tuples(st.sampled_from(ISLANDS), st.integers(0, ISLAND_PAGES - 1)).map(sum)


def model_of(ranges):
    """The numbers of the pages in `ranges`."""
    return {page for first, after in ranges for page in range(first, after)}


def rows_of(ranges):
    """The ranges as rows of byte addresses."""
    return np.array(ranges, dtype=np.uint64).reshape(-1, 2) * np.uint64(PAGE_BYTES)


def spans_of(ranges):
    """The ranges as the set under test."""
    return Spans((first * PAGE_BYTES, after * PAGE_BYTES) for first, after in ranges)


def pages_in(spans):
    """The numbers of the pages in `spans`, whose normal form is checked on the way."""
    array = spans.array
    assert array.dtype == np.uint64
    assert array.flags.c_contiguous
    assert not array.flags.writeable
    edges = array.ravel().tolist()
    assert len(edges) == 2 * len(spans)
    assert edges == sorted(set(edges)), "sorted, none empty, none touching"
    return model_of([(start // PAGE_BYTES, end // PAGE_BYTES) for start, end in array.tolist()])


class TestSpan:
    """One page-aligned range."""

    def test_knows_its_size(self):
        """Size is in bytes, pages in pages."""
        span = Span(0x1000, 0x1000 + 3 * PAGE_BYTES)
        assert (span.size_bytes, span.pages) == (3 * PAGE_BYTES, 3)

    def test_is_written_as_in_maps(self):
        """`str` finds the range in /proc/PID/maps; `repr` can be pasted into Python."""
        span = Span(0x400000, 0x401000)
        assert str(span) == "00400000-00401000"
        assert str(Span(0x7F12_3456_7000, 0x7F12_3456_8000)) == "7f1234567000-7f1234568000"
        assert repr(span) == "Span(0x400000, 0x401000)"

    def test_own_mappings_are_written_as_in_maps(self):
        """The kernel's text for every mapping of this process is the text of its Span."""
        for line in Path("/proc/self/maps").read_text().splitlines():
            text = line.split()[0]
            start, end = (int(part, 16) for part in text.split("-"))
            assert str(Span(start, end)) == text

    @pytest.mark.parametrize(
        ("start", "end", "why"),
        [
            (1, PAGE_BYTES, "not aligned"),
            (0, PAGE_BYTES + 1, "not aligned"),
            (2 * PAGE_BYTES, PAGE_BYTES, "ends before it starts"),
            (-PAGE_BYTES, PAGE_BYTES, "addresses run from 0"),
            (0, 1 << 64, "addresses run from 0"),
        ],
    )
    def test_refuses_what_is_no_span(self, start, end, why):
        """Misaligned, backward and impossible ranges are usage errors that say which it is and what to try."""
        with pytest.raises(UsageError, match=why) as caught:
            Span(start, end)
        assert caught.value.hint

    @pytest.mark.parametrize("address", [4096.0, "4096", None])
    def test_refuses_addresses_that_are_no_integers(self, address):
        """A float or a string is the wrong type, even where its value would do."""
        with pytest.raises(WrongType, match=type(address).__name__):
            Span(address, 2 * PAGE_BYTES)

    def test_holds_plain_integers(self):
        """Numpy's integers become Python's, which neither overflow nor confuse json."""
        span = Span(np.uint64(PAGE_BYTES), np.int64(2 * PAGE_BYTES))
        assert (type(span.start), type(span.end)) == (int, int)

    def test_is_a_record(self):
        """It is frozen, hashable, picklable, and `replace` validates again."""
        span = Span(0, PAGE_BYTES)
        assert {span: 1}[Span(start=0, end=PAGE_BYTES)] == 1
        assert pickle.loads(pickle.dumps(span)) == span == copy.deepcopy(span)  # noqa: S301 - our own bytes
        assert span.replace(end=2 * PAGE_BYTES) == Span(0, 2 * PAGE_BYTES)
        with pytest.raises(UsageError):
            span.replace(end=1)
        with pytest.raises(AttributeError, match="frozen"):
            span.start = PAGE_BYTES

    def test_empty_is_false(self):
        """An empty span is valid, false, and contains nothing, not even its own start."""
        empty = Span(PAGE_BYTES, PAGE_BYTES)
        assert not empty
        assert Span(0, PAGE_BYTES)
        assert PAGE_BYTES not in empty
        assert empty.pages == 0

    @bounded
    @given(st.integers(0, 3 * PAGE_BYTES), st.integers(0, 3 * PAGE_BYTES))
    def test_inward_takes_whole_pages_only(self, start, length):
        """Inward are exactly the pages whose every byte is in the range."""
        span = Span.inward(start, length)
        whole = {p for p in range(8) if start <= p * PAGE_BYTES and (p + 1) * PAGE_BYTES <= start + length}
        assert set(range(span.start // PAGE_BYTES, span.end // PAGE_BYTES)) == whole

    @bounded
    @given(st.integers(0, 3 * PAGE_BYTES), st.integers(0, 3 * PAGE_BYTES))
    def test_outward_takes_every_page_touched(self, start, length):
        """Outward are exactly the pages that share a byte with the range; an empty range shares none."""
        span = Span.outward(start, length)
        touched = {p for p in range(8) if max(start, p * PAGE_BYTES) < min(start + length, (p + 1) * PAGE_BYTES)}
        assert set(range(span.start // PAGE_BYTES, span.end // PAGE_BYTES)) == touched

    @pytest.mark.parametrize("make", [Span.inward, Span.outward])
    def test_refuses_a_negative_length(self, make):
        """A length is a count of bytes; a negative one is refused rather than turned into an empty span."""
        with pytest.raises(UsageError, match="-1 bytes"):
            make(PAGE_BYTES, -1)

    @bounded
    @given(st.lists(st.integers(0, 6), min_size=4, max_size=4), st.integers(0, 7 * PAGE_BYTES))
    def test_intersection_and_contains_agree(self, pages, address):
        """An address is in the intersection exactly if it is in both, whichever is asked first."""
        one, other = (Span(a * PAGE_BYTES, b * PAGE_BYTES) for a, b in (sorted(pages[:2]), sorted(pages[2:])))
        both = one.intersection(other)
        assert (address in both) == (one.contains(address) and other.contains(address))
        assert bool(both) == bool(other.intersection(one))


class TestMakingSpans:
    """Every constructor ends in the same normal form."""

    @bounded
    @given(page_ranges)
    def test_from_pairs_or_spans(self, ranges):
        """Pairs and Spans, overlapping, touching, empty and unsorted, become the set of their pages."""
        spans = spans_of(ranges)
        assert pages_in(spans) == model_of(ranges)
        assert Spans(Span(a * PAGE_BYTES, b * PAGE_BYTES) for a, b in ranges) == spans

    @bounded
    @given(page_ranges)
    def test_from_array(self, ranges):
        """Rows become the set of their pages, and a normal form comes back unchanged."""
        spans = Spans.from_array(rows_of(ranges))
        assert pages_in(spans) == model_of(ranges)
        assert np.array_equal(Spans.from_array(spans.array).array, spans.array)

    @bounded
    @given(st.lists(island_pages, max_size=60), st.booleans())
    def test_of_pages(self, pages, ascending):
        """Page addresses, sorted or not, repeated or not, become the set of those pages."""
        addresses = np.array(sorted(pages) if ascending else pages, dtype=np.uint64) * np.uint64(PAGE_BYTES)
        assert pages_in(Spans.of_pages(addresses)) == set(pages)

    def test_of_nothing(self):
        """Every constructor makes the empty set, which is false and of no size."""
        for empty in (Spans(), Spans([]), Spans.of_pages(np.array([])), Spans.from_array(np.empty((0, 2)))):
            assert not empty
            assert empty == Spans()
            assert (len(empty), empty.size_bytes, empty.pages, pages_in(empty)) == (0, 0, 0, set())

    @pytest.mark.parametrize("dtype", [np.int64, np.uint32, np.dtype(">u8")])
    def test_takes_integers_of_any_width(self, dtype):
        """Signed, narrow and byte-swapped integers count; the set holds uint64 whatever it was given."""
        rows = np.array([[PAGE_BYTES, 2 * PAGE_BYTES]], dtype=dtype)
        assert pages_in(Spans.from_array(rows)) == {1}
        assert pages_in(Spans.of_pages(rows)) == {1, 2}

    def test_keeps_its_own_copy(self):
        """Writing to the array that it was made from changes nothing."""
        rows = np.array([[0, PAGE_BYTES]], dtype=np.uint64)
        spans = Spans.from_array(rows)
        rows[:] = 0
        assert pages_in(spans) == {0}

    def test_array_cannot_be_written(self):
        """The array is read-only, and stays so against a caller who insists."""
        array = Spans([(0, PAGE_BYTES)]).array
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 0
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.flags.writeable = True

    @pytest.mark.parametrize(
        ("rows", "why"),
        [
            ([[0, PAGE_BYTES + 1]], "0x1001 is not the address of a page"),
            ([[-PAGE_BYTES, PAGE_BYTES]], "-0x1000 is not the address of a page"),
            ([[2 * PAGE_BYTES, PAGE_BYTES]], "ends before it starts"),
            ([0, PAGE_BYTES], r"shape \(n, 2\), not \(2,\)"),
            ([[0, 0, 0]], r"shape \(n, 2\), not \(1, 3\)"),
        ],
    )
    def test_refuses_rows_that_are_no_spans(self, rows, why):
        """One bad row refuses the array, and the message shows what is wrong with it."""
        with pytest.raises(UsageError, match=why) as caught:
            Spans.from_array(np.array(rows))
        assert caught.value.hint

    def test_refuses_floats(self):
        """A float cannot hold every 64-bit address, so that none is taken."""
        with pytest.raises(WrongType, match="float64"):
            Spans.from_array(np.array([[0.0, PAGE_BYTES]]))
        with pytest.raises(WrongType, match="float64"):
            Spans.of_pages(np.array([0.0]))

    def test_refuses_pages_off_the_grid(self):
        """Page addresses are addresses, not numbers; the last page of all would end at 2**64."""
        with pytest.raises(UsageError, match="0x1 is not the address of a page"):
            Spans.of_pages(np.array([0, 1], dtype=np.uint64))
        with pytest.raises(UsageError, match="last of all addresses"):
            Spans.of_pages(np.array([TOP], dtype=np.uint64))

    def test_refuses_a_bad_pair(self):
        """Pairs are checked as Spans are."""
        with pytest.raises(UsageError, match="not aligned"):
            Spans([(0, PAGE_BYTES), (1, 2)])


class TestSetOperations:
    """Union, intersection, difference, equality."""

    @bounded
    @given(page_ranges, page_ranges)
    def test_union(self, one, other):
        """`|` has the pages of either."""
        assert pages_in(spans_of(one) | spans_of(other)) == model_of(one) | model_of(other)

    @bounded
    @given(page_ranges, page_ranges)
    def test_intersection(self, one, other):
        """`&` has the pages of both."""
        assert pages_in(spans_of(one) & spans_of(other)) == model_of(one) & model_of(other)

    @bounded
    @given(page_ranges, page_ranges)
    def test_difference(self, one, other):
        """`-` has the pages of the first alone."""
        assert pages_in(spans_of(one) - spans_of(other)) == model_of(one) - model_of(other)

    @bounded
    @given(page_ranges, page_ranges)
    def test_equality(self, one, other):
        """Sets of the same pages are equal and hash alike, however they were made; others are not equal."""
        assert (spans_of(one) == spans_of(other)) == (model_of(one) == model_of(other))
        rebuilt = (spans_of(one) - spans_of(other)) | (spans_of(one) & spans_of(other))
        assert rebuilt == spans_of(one)
        assert hash(rebuilt) == hash(spans_of(one))

    def test_only_with_its_own_kind(self):
        """A set of anything else is neither equal nor an operand."""
        spans = Spans([(0, PAGE_BYTES)])
        assert spans != {0}
        for operate in (Spans.__or__, Spans.__and__, Spans.__sub__):
            assert operate(spans, {0}) is NotImplemented

    @bounded
    @given(page_ranges)
    def test_survives_pickle_and_copy(self, ranges):
        """A copy is equal, and as unwritable as the original."""
        spans = spans_of(ranges)
        pickled = pickle.loads(pickle.dumps(spans))  # noqa: S301 - our own bytes
        for again in (pickled, copy.copy(spans), copy.deepcopy(spans)):
            assert again == spans
            assert pages_in(again) == model_of(ranges)


class TestQuestions:
    """What a set says of itself."""

    @bounded
    @given(page_ranges)
    def test_counts(self, ranges):
        """Size, pages and truth are those of the set of pages, as plain integers."""
        spans, model = spans_of(ranges), model_of(ranges)
        assert (spans.pages, spans.size_bytes, bool(spans)) == (len(model), len(model) * PAGE_BYTES, bool(model))
        assert type(spans.size_bytes) is int

    @bounded
    @given(page_ranges)
    def test_iterates_in_order(self, ranges):
        """Iteration yields Spans, ascending, as many as `len` says, and a set made of them is the same."""
        spans = spans_of(ranges)
        listed = list(spans)
        assert all(type(span) is Span for span in listed)
        assert len(listed) == len(spans)
        assert listed == sorted(listed, key=lambda span: span.start)
        assert Spans(listed) == spans

    @bounded
    @given(page_ranges, island_pages, st.integers(0, PAGE_BYTES - 1))
    def test_contains_addresses(self, ranges, page, byte):
        """An address is within exactly if its page is."""
        spans = spans_of(ranges)
        assert (page * PAGE_BYTES + byte in spans) == (page in model_of(ranges))
        assert spans.contains(page * PAGE_BYTES) == (page in model_of(ranges))

    @pytest.mark.parametrize("ranges", [[], [(0, 2), (3, 4), (5, 9)], [(2, 3), (6, 11)]])
    def test_answers_for_every_span(self, ranges):
        """A Span is `in` exactly if all its pages are, an empty one always; `within` is the intersection with it."""
        spans, model = spans_of(ranges), model_of(ranges)
        for first, after in itertools.combinations_with_replacement(range(13), 2):
            span, pages = Span(first * PAGE_BYTES, after * PAGE_BYTES), set(range(first, after))
            assert (span in spans) == (pages <= model), span
            assert pages_in(spans.within(span)) == model & pages, span

    @pytest.mark.parametrize("address", [-1, 1 << 64, 1 << 80, TOP, TOP + PAGE_BYTES - 1])
    def test_no_address_beyond_all_is_within(self, address):
        """Addresses that cannot be are in no set, and asking is no error."""
        assert address not in Spans([(0, TOP)])
        assert address not in Spans()

    @bounded
    @given(page_ranges, island_pages, st.integers(0, ISLAND_PAGES))
    def test_within_anywhere(self, ranges, first, pages):
        """The same holds at both ends of the address space."""
        after = min(first + pages, TOP // PAGE_BYTES)
        part = spans_of(ranges).within(Span(first * PAGE_BYTES, after * PAGE_BYTES))
        assert pages_in(part) == model_of(ranges) & set(range(first, after))

    def test_shows_how_many_and_how_much(self):
        """`repr` stays one line for a million spans."""
        assert repr(Spans([(0, PAGE_BYTES), (2 * PAGE_BYTES, 4 * PAGE_BYTES)])) == "<Spans: 2 of 12.0 KiB in all>"


class TestCutting:
    """The forms in which the kernel wants its ranges."""

    @bounded
    @given(wide_ranges)
    def test_inward_huge(self, ranges):
        """Only blocks remain that are aligned and whole."""
        model = model_of(ranges)
        blocks = {page - page % PAGES_IN_HUGE for page in model}
        whole = {block for block in blocks if model.issuperset(range(block, block + PAGES_IN_HUGE))}
        kept = spans_of(ranges).inward_huge()
        assert pages_in(kept) == {page for block in whole for page in range(block, block + PAGES_IN_HUGE)}

    def test_inward_huge_at_the_edges_of_a_block(self):
        """A block that is exactly covered stays; one page less on either side and it goes."""
        block = range(PAGES_IN_HUGE, 2 * PAGES_IN_HUGE)
        for before, behind in itertools.product((-1, 0, 1), repeat=2):
            kept = spans_of([(block.start - before, block.stop + behind)]).inward_huge()
            assert pages_in(kept) == (set() if -1 in (before, behind) else set(block)), (before, behind)

    @bounded
    @given(page_ranges, st.integers(1, 5))
    def test_batches(self, ranges, count):
        """Batches are full but for the last, in order, and together the whole set, none of it copied."""
        spans = spans_of(ranges)
        batches = list(spans.batches(count))
        assert [len(batch) for batch in batches[:-1]] == [count] * (len(batches) - 1)
        assert all(1 <= len(batch) <= count for batch in batches)
        assert [span for batch in batches for span in batch] == list(spans)
        assert all(np.shares_memory(batch.array, spans.array) for batch in batches)

    @bounded
    @given(page_ranges)
    def test_iovec(self, ranges):
        """Each row is (base, length), laid out as an array of struct iovec on a 64-bit machine."""
        spans = spans_of(ranges)
        iovec = spans.iovec()
        assert (iovec.dtype, iovec.shape, iovec.flags.c_contiguous) == (np.uint64, (len(spans), 2), True)
        assert iovec.tolist() == [[span.start, span.size_bytes] for span in spans]

    @bounded
    @given(page_ranges, st.integers(1, 30))
    def test_split(self, ranges, most_pages):
        """Each span is cut at multiples of the limit from its own start, the rest last."""
        spans = spans_of(ranges)
        most = most_pages * PAGE_BYTES
        expected = [[at, min(at + most, span.end)] for span in spans for at in range(span.start, span.end, most)]
        rows = spans.split(most)
        assert rows.tolist() == expected
        assert (rows.dtype, rows.shape[1], rows.flags.c_contiguous) == (np.uint64, 2, True)

    def test_split_into_more_than_all(self):
        """A limit beyond every address cuts nothing."""
        spans = Spans([(0, PAGE_BYTES), (2 * PAGE_BYTES, TOP)])
        assert np.array_equal(spans.split(1 << 70), spans.array)

    @pytest.mark.parametrize("most", [0, -PAGE_BYTES, PAGE_BYTES + 1])
    def test_split_refuses_parts_of_pages(self, most):
        """A limit that is no positive number of whole pages is refused."""
        with pytest.raises(UsageError, match=f"{most} bytes"):
            Spans().split(most)

    def test_batches_refuse_to_stand_still(self):
        """A batch holds one span at least; the call itself says so, not the first step of the loop."""
        with pytest.raises(UsageError, match="batch of 0"):
            Spans().batches(0)


def test_import_needs_no_numpy():
    """A command that only prints a range never loads numpy."""
    code = "import sys, dontneed.spans as s; str(s.Span(0, 4096 << 10)); sys.exit('numpy' in sys.modules)"
    source = str(Path(dontneed.__path__[0]).parent)
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": source})
