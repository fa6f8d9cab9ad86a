"""Counting pages by mapping, against a model that cannot be wrong: a dictionary of pages.

The kernel is played by lists of runs and arrays of entries; what it says is drawn at random, in windows cut anywhere.
"""

from __future__ import annotations

from array import array
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dontneed.abi import pagemap as abi
from dontneed.abi.capabilities import bit_of
from dontneed.errors import DontneedError, KernelLacks, NotPermitted, ProcessGone, TargetRefused
from dontneed.kernel import smaps as kernel_smaps
from dontneed.kernel.capabilities import Privileges
from dontneed.kernel.maps import parse_maps
from dontneed.kernel.smaps import SmapsCounters, parse_smaps
from dontneed.observe import residency
from dontneed.observe.mapping import kind_of
from dontneed.observe.residency import (
    METHODS,
    count_by_entries,
    count_by_scan,
    count_by_smaps,
    count_pages,
    walked_ranges,
)

PROCFS = Path(__file__).parents[1] / "data" / "procfs"
PAGE = 4096
GIB = 1 << 30
FIRST = 0x7F00_0000_0000 // PAGE
"""The number of the page around which everything is drawn."""
PAGES = 64

PRESENT, SWAPPED, ZERO, HUGE, GUARD = abi.IS_PRESENT, abi.IS_SWAPPED, abi.IS_ZERO, abi.IS_HUGE, abi.IS_GUARD
SORTS = (PRESENT, SWAPPED, PRESENT | HUGE, PRESENT | ZERO, PRESENT | ZERO | HUGE, SWAPPED | GUARD)
"""Categories that PAGEMAP_SCAN gives to a page."""

bounded = settings(max_examples=150, deadline=None, derandomize=True, database=None)


def table_of(ranges: list[tuple[int, int]]):
    """The maps of a process with mappings between these page numbers."""
    lines = (f"{first * PAGE:08x}-{after * PAGE:08x} rw-p 00000000 00:00 0 " for first, after in ranges)
    return parse_maps("\n".join(lines).encode())


mapped = st.lists(st.integers(0, PAGES), min_size=2, max_size=24, unique=True).map(
    lambda cuts: [(FIRST + first, FIRST + after) for first, after in list(pairwise(sorted(cuts)))[:: 1 + len(cuts) % 2]]
)
"""Mappings: each next to the one before, or every second one, with holes between."""

populated = st.dictionaries(st.integers(FIRST, FIRST + PAGES - 1), st.sampled_from(SORTS), max_size=PAGES)
"""What is on the pages, wherever mappings are."""


def windows_of(pages: dict[int, int], cuts: list[int]) -> list[array]:
    """What PAGEMAP_SCAN says of these pages: runs of pages alike, in windows that end where `cuts` say."""
    runs: list[list[int]] = []
    for page, sort in sorted(pages.items()):
        if runs and runs[-1][1] == page and runs[-1][2] == sort and page not in cuts:
            runs[-1][1] = page + 1
        else:
            runs.append([page, page + 1, sort])
    windows: list[array] = []
    for first, after, sort in runs:
        if not windows or first in cuts:
            windows.append(array("Q"))
        windows[-1].extend((first * PAGE, after * PAGE, sort))
    return windows


def model(ranges: list[tuple[int, int]], pages: dict[int, int], sorts: set[int]) -> list[int]:
    """Bytes of the pages of some sorts, by mapping."""
    wanted = {page for page, sort in pages.items() if sort in sorts}
    return [PAGE * len(wanted & set(range(first, after))) for first, after in ranges]


@bounded
@given(mapped, populated, st.lists(st.integers(FIRST, FIRST + PAGES), max_size=8))
def test_runs_are_counted_in_the_mappings_they_lie_in(ranges, pages, cuts) -> None:
    """Present, swapped, huge and zero pages, runs over several mappings, and pages that belong to none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(residency, "scan_categories", lambda _fd: PRESENT)
        patch.setattr(residency, "scan_pages", lambda *_arguments, **_options: iter(windows_of(pages, cuts)))
        counted = count_by_scan(-1, table_of(ranges))
    assert counted.method == "PAGEMAP_SCAN"
    assert counted.rss == model(ranges, pages, {PRESENT, PRESENT | HUGE})
    assert counted.huge == model(ranges, pages, {PRESENT | HUGE})
    assert counted.zero == model(ranges, pages, {PRESENT | ZERO, PRESENT | ZERO | HUGE})
    assert counted.swap == model(ranges, pages, {SWAPPED})
    within = {page for first, after in ranges for page in range(first, after)}
    assert counted.unmatched_bytes == PAGE * len(pages.keys() - within)


ENTRIES = {
    PRESENT: abi.PRESENT | abi.EXCLUSIVE | 4711,
    PRESENT | HUGE: abi.PRESENT | 4712,
    PRESENT | ZERO: abi.PRESENT | abi.FILE,
    PRESENT | ZERO | HUGE: abi.PRESENT | abi.SOFT_DIRTY,
    SWAPPED: abi.SWAP | abi.SOFT_DIRTY | 0x1234,
    SWAPPED | GUARD: abi.SWAP | abi.GUARD,
}


@bounded
@given(mapped, populated)
def test_entries_are_counted_in_the_mappings_they_lie_in(ranges, pages) -> None:
    """Present and swapped; an entry does not tell huge and zero pages apart."""

    def read(_fd: int, start: int, end: int) -> np.ndarray:
        # The rest of a mapping that the kernel marks soft-dirty has this bit and no pages.
        numbers = range(start // PAGE, end // PAGE)
        return np.fromiter((ENTRIES[pages[page]] if page in pages else abi.SOFT_DIRTY for page in numbers), np.uint64)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(residency, "read_entries", read)
        counted = count_by_entries(-1, table_of(ranges))
    assert counted.method == "pagemap"
    assert counted.rss == model(ranges, pages, {sort for sort in SORTS if sort & PRESENT})
    assert counted.swap == model(ranges, pages, {SWAPPED})
    assert (counted.huge, counted.zero) == (None, None)


def test_more_address_space_than_can_be_read_is_not_read() -> None:
    """A terabyte of reserved addresses is 2 GiB of entries: the method declines, and asks the kernel for none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(residency, "read_entries", lambda *_: pytest.fail("it was read"))
        assert count_by_entries(-1, table_of([(FIRST, FIRST + (1 << 40) // PAGE)])) is None


@pytest.mark.parametrize("kernel", ["2.6.32", "3.10", "4.4", "5.10", "6.1", "6.18"])
def test_the_kernels_counts_are_taken_as_they_are(kernel) -> None:
    """What smaps says, by mapping; it says nothing of zero pages."""
    _, smaps = parse_smaps((PROCFS / kernel / "smaps").read_bytes())
    counted = count_by_smaps(smaps)
    assert (counted.method, counted.zero) == ("smaps", None)
    assert counted.rss == [each.rss_bytes for each in smaps]
    assert counted.swap == [each.swap_bytes for each in smaps]
    assert counted.huge == [each.huge_bytes for each in smaps]
    assert counted.hugetlb == {row: each.hugetlb_bytes for row, each in enumerate(smaps) if each.hugetlb_bytes}


@bounded
@given(st.lists(st.tuples(st.integers(0, 1 << 22), st.integers(1, 1 << 20)), max_size=12))
def test_all_mappings_are_walked_and_no_large_gap(steps) -> None:
    """In order, without overlap; between two walks lies more than a gigabyte of nothing, and never so within one."""
    ranges, reached = [], FIRST
    for gap, size in steps:
        ranges.append((reached + gap, reached + gap + size))
        reached += gap + size
    walks = list(walked_ranges(table_of(ranges)))
    assert all(after - before > GIB for (_, before), (after, _) in pairwise(walks))
    for start, end in walks:
        inside = [(first * PAGE, after * PAGE) for first, after in ranges if start <= first * PAGE < end]
        assert (inside[0][0], inside[-1][1]) == (start, end)
        assert all(after - before <= GIB for (_, before), (after, _) in pairwise(inside))
    assert sum(any(start <= first * PAGE < end for start, end in walks) for first, _ in ranges) == len(ranges)


def test_vsyscall_is_not_walked() -> None:
    """It lies beyond user space, where PAGEMAP_SCAN refuses to look."""
    vsyscall = 0xFFFF_FFFF_FF60_0000 // PAGE
    assert list(walked_ranges(table_of([(FIRST, FIRST + 1), (vsyscall, vsyscall + 1)]))) == [
        (FIRST * PAGE, (FIRST + 1) * PAGE)
    ]
    assert list(walked_ranges(table_of([(vsyscall, vsyscall + 1)]))) == []
    assert list(walked_ranges(table_of([]))) == []


# Which method is taken


class Files:
    """A process that is not there; its files are what the test says."""

    pid = 1

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error

    def open(self, _name: str) -> int:
        """Something that can be closed, or the error."""
        if self._error:
            raise self._error
        return residency.os.open("/dev/null", residency.os.O_RDONLY)


@pytest.fixture
def kernel(monkeypatch):
    """Play a kernel: whether it has PAGEMAP_SCAN, what its pagemap and its smaps say."""

    def play(*, scan: bool = True, entries: bool = True, smaps: str = "6.1"):
        table, counted = parse_smaps((PROCFS / smaps / "smaps").read_bytes())
        scanned, entered = residency.Residency("PAGEMAP_SCAN", len(table)), residency.Residency("pagemap", len(table))
        entered.huge = entered.zero = None
        monkeypatch.setattr(residency, "_may_read_tables", lambda: False)
        monkeypatch.setattr(residency, "count_by_scan", lambda _fd, _table: scanned if scan else None)
        monkeypatch.setattr(residency, "count_by_entries", lambda _fd, _table: entered if entries else None)
        monkeypatch.setattr(kernel_smaps, "read_smaps", lambda _process: (table, counted))
        return table, counted

    return play


def counted_by(table, method="auto", *, error=None, smaps=None):
    """Count; the kinds and the notes too."""
    notes: list[str] = []
    kinds = table.classify(kind_of)
    return count_pages(Files(error), table, kinds, method=method, smaps=smaps, notes=notes), kinds, notes


def test_the_fastest_way_is_taken_where_there_is_one(kernel) -> None:
    """PAGEMAP_SCAN, and nothing to say about it."""
    table, _ = kernel()
    counted, _, notes = counted_by(table)
    assert (counted.method, notes) == ("PAGEMAP_SCAN", [])


@pytest.fixture
def refused(monkeypatch):
    """Play root on a kernel that does not let its memory be read; the list of the times that it was asked."""
    asked = []

    def refuse():
        asked.append(1)
        raise KernelLacks("page tables cannot be read: bpf is absent")

    monkeypatch.setattr(residency, "_refused", [])
    monkeypatch.setattr("dontneed.kernel.kernel_memory._idle", [])
    monkeypatch.setattr(residency, "read_privileges", lambda: Privileges(0, bit_of("CAP_SYS_ADMIN"), 0))
    monkeypatch.setattr("dontneed.kernel.kernel_memory.kernel_memory", refuse)
    return asked


def test_whoever_may_not_read_page_tables_is_not_asked_twice(kernel, monkeypatch, refused) -> None:
    """Another way is there, and finding out takes longer than a look."""
    may_read = residency._may_read_tables
    table, _ = kernel()
    monkeypatch.setattr(residency, "_may_read_tables", may_read)
    for _ in range(3):
        counted, _, notes = counted_by(table)
        assert (counted.method, notes) == ("PAGEMAP_SCAN", [])
    assert len(refused) == 1


def test_nobody_but_root_tries_to_read_page_tables(kernel, monkeypatch, refused) -> None:
    """It would be refused, after some milliseconds."""
    may_read = residency._may_read_tables
    table, _ = kernel()
    monkeypatch.setattr(residency, "_may_read_tables", may_read)
    monkeypatch.setattr(residency, "read_privileges", lambda: Privileges(65534, 0, 0))
    assert counted_by(table)[0].method == "PAGEMAP_SCAN"
    assert refused == []


def test_page_tables_that_were_asked_for_are_not_exchanged(kernel, refused) -> None:
    """Who names a method gets it, or the reason why not, each time."""
    table, _ = kernel()
    for _ in range(2):
        with pytest.raises(KernelLacks, match="bpf is absent"):
            counted_by(table, "page tables")
    assert len(refused) == 2


@pytest.mark.parametrize(
    "error",
    [
        TargetRefused("process 7 replaced its program while its page tables were read"),
        KernelLacks("process 7 is not to be found among the tasks of the kernel"),
        DontneedError("kernel memory went away while it was read"),
    ],
)
def test_a_process_that_moves_is_counted_another_way(kernel, monkeypatch, refused, error) -> None:
    """This once: it says nothing about the next process. Who asked for page tables is told."""
    may_read = residency._may_read_tables
    table, _ = kernel()
    monkeypatch.setattr(residency, "_may_read_tables", may_read)
    monkeypatch.setattr("dontneed.kernel.kernel_memory.kernel_memory", nullcontext)

    def moves(*_arguments):
        raise error

    monkeypatch.setattr(residency, "count_by_tables", moves)
    assert counted_by(table)[0].method == "PAGEMAP_SCAN"
    assert residency._refused == refused == []
    with pytest.raises(type(error)):
        counted_by(table, "page tables")


def test_a_process_that_has_ended_is_gone_by_any_way(kernel, monkeypatch) -> None:
    """There is nothing left to count."""
    table, _ = kernel()
    monkeypatch.setattr(residency, "_may_read_tables", lambda: True)
    monkeypatch.setattr("dontneed.kernel.kernel_memory.kernel_memory", nullcontext)

    def ended(*_arguments):
        raise ProcessGone("process 7 ended while it was looked at")

    monkeypatch.setattr(residency, "count_by_tables", ended)
    with pytest.raises(ProcessGone):
        counted_by(table)


def test_hugetlb_pages_are_taken_out_of_what_page_tables_count(kernel, monkeypatch) -> None:
    """The entries do not tell them from other huge pages; the kind of the mapping does."""
    table, _ = kernel(smaps="6.18")
    row = next(row for row in range(len(table)) if "memfd:hugetlb" in table.words(row)[4])
    columns = {
        column: np.zeros(len(table), np.int64) for column in ("rss", "accessed", "dirty", "huge", "zero", "swap")
    }
    for column in ("rss", "accessed", "dirty", "huge"):
        columns[column][row] = 2 << 20
    monkeypatch.setattr(residency, "_may_read_tables", lambda: True)
    monkeypatch.setattr(residency, "count_by_tables", lambda *_: residency.Residency("page tables", 0, columns))
    monkeypatch.setattr(residency, "_hugetlb_among", lambda _process, _table, rows: rows)
    counted, kinds, _ = counted_by(table)
    assert (counted.method, kinds[row], counted.hugetlb) == ("page tables", "hugetlb", {row: 2 << 20})
    assert [counted.total(column) for column in residency._COLUMNS] == [0] * 6
    assert counted.rows_with("rss") == counted.rows_with("accessed") == []


def test_an_older_kernel_is_read_entry_by_entry(kernel) -> None:
    """And a note says what that cannot tell."""
    table, _ = kernel(scan=False)
    counted, _, notes = counted_by(table)
    assert counted.method == "pagemap"
    assert [note.partition(":")[0] for note in notes] == ["counted from pagemap entries"]


def test_a_process_too_large_to_be_read_is_counted_by_the_kernel(kernel) -> None:
    """On an older kernel; the note says what that costs, and nothing of entries that were not read."""
    table, smaps = kernel(scan=False, entries=False)
    counted, _, notes = counted_by(table)
    assert (counted.method, counted.rss) == ("smaps", [each.rss_bytes for each in smaps])
    assert len(notes) == 1
    assert "stall" in notes[0]


@pytest.mark.parametrize("error", [NotPermitted("not permitted to read pagemap"), KernelLacks("there is no pagemap")])
def test_without_a_pagemap_the_kernel_counts(kernel, error) -> None:
    """And the first note says why."""
    table, _ = kernel()
    counted, _, notes = counted_by(table, error=error)
    assert (counted.method, notes[0]) == ("smaps", str(error))


@pytest.mark.parametrize("method", ["PAGEMAP_SCAN", "pagemap"])
def test_a_method_that_was_asked_for_is_not_exchanged(kernel, method) -> None:
    """Who names one gets it, or the reason why not."""
    table, _ = kernel()
    with pytest.raises(NotPermitted):
        counted_by(table, method, error=NotPermitted("not permitted to read pagemap"))


def test_an_older_kernel_refuses_to_scan(kernel) -> None:
    """With the version that brought it."""
    table, _ = kernel(scan=False)
    with pytest.raises(KernelLacks) as raised:
        counted_by(table, "PAGEMAP_SCAN")
    assert "6.7" in raised.value.hint


def test_counters_that_were_read_are_reported(kernel) -> None:
    """With zero pages from the page map, and no note about the method that was not used for the rest."""
    table, smaps = kernel()
    counted, _, notes = counted_by(table, smaps=smaps)
    assert counted.rss == [each.rss_bytes for each in smaps]
    assert (counted.zero, notes) == ([0] * len(table), [])
    kernel(scan=False)
    counted, _, notes = counted_by(table, smaps=smaps)
    assert (counted.zero, notes) == (None, [])


def test_a_text_read_later_is_matched_by_address(kernel, monkeypatch) -> None:
    """Mappings came and went between maps and smaps: every count is in its own row, and what is gone holds nothing."""
    table, smaps = kernel(scan=False, entries=False)
    lines = (PROCFS / "6.1" / "maps").read_bytes().splitlines()
    later = parse_maps([b"00400000-00401000 rw-p 00000000 00:00 0 ", *lines[:3], *lines[4:]])
    counts = [SmapsCounters(rss_bytes=7 * PAGE), *smaps[:3], *smaps[4:]]
    monkeypatch.setattr(kernel_smaps, "read_smaps", lambda _process: (later, counts))
    counted, _, _ = counted_by(table)
    assert counted.rss == [0 if row == 3 else each.rss_bytes for row, each in enumerate(smaps)]


def test_what_the_kernel_counts_as_hugetlb_is_called_so(kernel) -> None:
    """A memfd that looks like any other, by the lines of smaps."""
    table, smaps = kernel(smaps="6.18")
    row = next(row for row in range(len(table)) if "memfd:hugetlb" in table.words(row)[4])
    _, kinds, _ = counted_by(table, "smaps", smaps=smaps)
    assert kind_of(table.words(row)[4], "rw-s") == "shared memory"
    assert kinds[row] == "hugetlb"


def test_the_methods_are_those_that_are_documented() -> None:
    """`auto` first: it is the default."""
    assert METHODS == ("auto", "page tables", "PAGEMAP_SCAN", "pagemap", "smaps")
