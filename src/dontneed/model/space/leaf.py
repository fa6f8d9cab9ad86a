"""One last-level page table of the model, in the form that its contents allow.

A table of 512 entries is nearly always empty, or touched in one stroke from some page to another; now and then a few
strokes; rarely a patchwork. So a leaf is one of four things, told apart by type:

    ()                           empty
    (first, last, code, value)   one run of entries alike
    [run, run, ...]              two to four runs, ascending and apart
    Patchwork                    a code and a value for each of the 512 entries

A tebibyte with a page touched in each table takes 97 MB so, where 512 stored entries a table would take gigabytes; and
a table filled in order costs as much as one entry (`benchmarks` has the figures). Values go up by one a page along a
run, but for the kinds that say the same about each page; a run joins its neighbour where code and value go on.

The three forms without a Patchwork never change in place: an edit returns another leaf. A Patchwork does, and is never
shared between tables. Pages are counted within the table, 0 to 512, ranges are half-open.
"""

from __future__ import annotations

import re
from array import array
from itertools import repeat

from dontneed.model.space.entries import CONSTANT, FILE, HUGE, HUGETLB, KIND, LEAF_PAGES, NONE, PFN, SHMEM

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Sequence
    from typing import TypeAlias

    Run: TypeAlias = tuple[int, int, int, int]
    Leaf: TypeAlias = "tuple[()] | Run | list[Run] | Patchwork"
    Allocate: TypeAlias = Callable[[int], int]

MOST_RUNS = 4
"""More than these become a Patchwork: from there on, searching runs costs more than indexing."""

_ALIKE = re.compile(rb"([^\0])\1*", re.DOTALL)
"""Neighbouring entries of one code."""

_GAP = re.compile(rb"\0+")
"""Neighbouring pages without entries."""

NO_DEPOSIT = frozenset((FILE, SHMEM, PFN, HUGETLB))
"""Huge entries of these kinds hold no table in deposit for when they are split."""

STEP = bytes(0 if code & KIND in CONSTANT else 1 for code in range(256))
"""How far the value goes from one page to the next, by code."""


class Patchwork:
    """The 512 entries of a leaf, each on its own: `codes`, and a value where the code is not 0."""

    __slots__ = ("codes", "values")

    def __init__(self, codes: bytearray, values: array[int]) -> None:
        self.codes = codes
        self.values = values

    @classmethod
    def of(cls, runs: Iterable[Run]) -> Patchwork:
        """The same entries as `runs`."""
        patchwork = cls(bytearray(LEAF_PAGES), array("Q", bytes(8 * LEAF_PAGES)))
        for first, last, code, value in runs:
            patchwork.write(first, last, code, value)
        return patchwork

    def copy(self) -> Patchwork:
        """The same entries, to be changed apart."""
        return Patchwork(self.codes[:], self.values[:])

    def write(self, first: int, last: int, code: int, value: int) -> None:
        """Overwrite the entries of a range."""
        pages = last - first
        if pages == 1:
            self.codes[first] = code
            self.values[first] = value
            return
        self.codes[first:last] = bytes((code,)) * pages
        self.values[first:last] = array("Q", range(value, value + pages) if STEP[code] else repeat(value, pages))

    def erase(self, first: int, last: int) -> None:
        """Leave no entries in a range."""
        self.codes[first:last] = bytes(last - first)

    def runs(self, first: int, last: int) -> list[Run]:
        """The entries of a range, as runs."""
        runs: list[Run] = []
        values = self.values
        for match in _ALIKE.finditer(self.codes, first, last):
            start, end = match.span()
            code, value = self.codes[start], values[start]
            if end - start > 1:
                step, before = STEP[code], value - STEP[code]
                for page, here in enumerate(values[start:end], start):
                    if here != before + step:
                        runs.append((start, page, code, value))
                        start, value = page, here
                    before = here
            runs.append((start, end, code, value))
        return runs

    def gaps(self, first: int, last: int) -> list[tuple[int, int]]:
        """The ranges within a range that have no entries."""
        codes = self.codes
        if last - first == 1:
            return [] if codes[first] else [(first, last)]
        return [match.span() for match in _GAP.finditer(codes, first, last)]

    def settled(self) -> Leaf:
        """The same entries in the plainest form that is found without looking for runs."""
        if len(self.codes.translate(None, b"\0")) > MOST_RUNS:
            return self
        return leaf_of(self.runs(0, LEAF_PAGES))


def leaf_of(runs: Sequence[Run]) -> Leaf:
    """The leaf with these runs, ascending and apart; those that go on from one to the next are joined."""
    if len(runs) <= 1:
        return runs[0] if runs else ()
    joined: list[Run] = []
    before = (-1, -1, NONE, 0)
    for run in runs:
        start, end, code, value = run
        if start == before[1] and code == before[2] and value == before[3] + STEP[code] * (start - before[0]):
            before = joined[-1] = (before[0], end, code, before[3])
        else:
            joined.append(run)
            before = run
    if len(joined) == 1:
        return joined[0]
    return joined if len(joined) <= MOST_RUNS else Patchwork.of(joined)


def runs_of(leaf: Leaf) -> Sequence[Run]:
    """All runs of a leaf, ascending."""
    if isinstance(leaf, tuple):
        return (leaf,) if leaf else ()
    return leaf if isinstance(leaf, list) else leaf.runs(0, LEAF_PAGES)


def runs_within(leaf: Leaf, first: int, last: int) -> Sequence[Run]:
    """The runs of a leaf in a range, cut to it."""
    if isinstance(leaf, Patchwork):
        return leaf.runs(first, last)
    inside = []
    for run in runs_of(leaf):
        start, end, code, value = run
        if first <= start and end <= last:
            inside.append(run)
        elif start < last and first < end:
            skipped = max(first - start, 0)
            inside.append((start + skipped, min(end, last), code, value + STEP[code] * skipped))
    return inside


def with_gaps(runs: Iterable[Run], first: int, last: int) -> Iterator[Run]:
    """The runs of a range, and between them the gaps, as runs of code 0."""
    for run in runs:
        if first < run[0]:
            yield first, run[0], NONE, 0
        yield run
        first = run[1]
    if first < last:
        yield first, last, NONE, 0


def entry_at(leaf: Leaf, page: int) -> tuple[int, int]:
    """Code and value of one entry; (0, 0) where there is none."""
    if isinstance(leaf, Patchwork):
        code = leaf.codes[page]
        return (code, leaf.values[page]) if code else (NONE, 0)
    for first, last, code, value in runs_of(leaf):
        if first <= page < last:
            return code, value + STEP[code] * (page - first)
    return NONE, 0


def is_table(leaf: Leaf) -> bool:
    """Whether a table is held: always, but for huge entries of what can be found again in the page cache."""
    return not (isinstance(leaf, tuple) and leaf and leaf[2] & HUGE and leaf[2] & KIND in NO_DEPOSIT)


def is_huge(leaf: Leaf) -> bool:
    """Whether one entry of the table above maps all 512 pages."""
    return isinstance(leaf, tuple) and len(leaf) > 0 and leaf[2] & HUGE > 0


def written(leaf: Leaf, run: Run) -> Leaf:
    """The leaf with `run` in place of what was there."""
    first, last, code, value = run
    if last - first == LEAF_PAGES:
        return run
    if code & HUGE:
        msg = f"pages {first} to {last} of a table cannot be huge: a huge entry maps all {LEAF_PAGES}"
        raise AssertionError(msg)
    if isinstance(leaf, Patchwork):
        leaf.write(first, last, code, value)
        return leaf
    return _spliced(leaf, first, last, (run,))


def with_page(leaf: tuple[()] | Run | list[Run], page: int, code: int, value: int) -> Leaf:
    """The leaf with one page more, where it has no entry; in a few steps if that lies behind all entries."""
    if not leaf:
        return (page, page + 1, code, value)
    runs = [leaf] if isinstance(leaf, tuple) else leaf
    first, last, before, first_value = runs[-1]
    if page < last:
        return written(leaf, (page, page + 1, code, value))
    if page == last and code == before and value == first_value + STEP[code] * (last - first):
        longer = (first, page + 1, code, first_value)
        return longer if len(runs) == 1 else [*runs[:-1], longer]
    more = [*runs, (page, page + 1, code, value)]
    return more if len(more) <= MOST_RUNS else Patchwork.of(more)


def filled(leaf: Leaf, first: int, last: int, code: int, allocate: Allocate) -> tuple[Leaf, int]:
    """The leaf with `code` where a range had no entries, and how many pages these are.

    Args:
        leaf: to be filled.
        first: where the range starts.
        last: where it ends.
        code: of the new entries.
        allocate: called with the pages of each gap, in order; returns the value of the first of them.
    """
    pages = last - first
    if not leaf:
        return (first, last, code, allocate(pages)), pages
    if isinstance(leaf, Patchwork):
        gaps = leaf.gaps(first, last)
        for start, end in gaps:
            leaf.write(start, end, code, allocate(end - start))
        return leaf, sum([end - start for start, end in gaps])
    inside = runs_within(leaf, first, last)
    if not inside:
        return _spliced(leaf, first, last, ((first, last, code, allocate(pages)),)), pages
    for run in inside:
        pages -= run[1] - run[0]
    if not pages:
        return leaf, 0
    pieces = [
        run if run[2] else (run[0], run[1], code, allocate(run[1] - run[0])) for run in with_gaps(inside, first, last)
    ]
    return _spliced(leaf, first, last, pieces), pages


def erased(leaf: Leaf, first: int, last: int) -> Leaf:
    """The leaf without the entries of a range."""
    if last - first == LEAF_PAGES:
        return ()
    if isinstance(leaf, Patchwork):
        leaf.erase(first, last)
        return leaf.settled()
    return _spliced(leaf, first, last, ())


def taken(leaf: Leaf, first: int, last: int, keep: Container[int]) -> tuple[Sequence[Run], Leaf]:
    """The runs of a range, but for the kinds in `keep`, and the leaf without them."""
    inside = runs_within(leaf, first, last)
    kept = [run for run in inside if run[2] & KIND in keep]
    if not kept:
        return inside, erased(leaf, first, last)
    gone = [run for run in inside if run[2] & KIND not in keep]
    if not isinstance(leaf, Patchwork):
        return gone, _spliced(leaf, first, last, kept)
    for run in gone:
        leaf.erase(run[0], run[1])
    return gone, leaf.settled()


def recoded(leaf: Leaf, first: int, last: int, table: bytes) -> Leaf:
    """The leaf with every code of a range looked up in a table of 256."""
    if isinstance(leaf, Patchwork):
        leaf.codes[first:last] = leaf.codes[first:last].translate(table)
        return leaf
    inside = runs_within(leaf, first, last)
    if all(table[run[2]] == run[2] for run in inside):
        return leaf
    return _spliced(leaf, first, last, [(start, end, table[code], value) for start, end, code, value in inside])


def _spliced(leaf: Leaf, first: int, last: int, runs: Iterable[Run]) -> Leaf:
    """The leaf with `runs` in place of what was in a range; no Patchwork."""
    if is_huge(leaf) and last - first < LEAF_PAGES:
        msg = f"pages {first} to {last} of a huge entry cannot change alone: split it first"
        raise AssertionError(msg)
    before: list[Run] = []
    after: list[Run] = []
    for run in runs_of(leaf):
        start, end, code, value = run
        if end <= first:
            before.append(run)
        elif start >= last:
            after.append(run)
        else:
            if start < first:
                before.append((start, first, code, value))
            if end > last:
                after.append((last, end, code, value + STEP[code] * (last - start)))
    return leaf_of([*before, *runs, *after])
