"""How many bytes of every mapping are present, accessed, dirty, swapped, huge, zero.

Four ways, in the order in which `count_pages` tries them: the page tables themselves (root), PAGEMAP_SCAN (6.7+), the
entries of pagemap, and the kernel's own count in smaps. They agree; the first is the fastest, takes no lock of the
target and tells the most, the second is courteous, the last can stall its target.
"""

from __future__ import annotations

import os
import sys
from bisect import bisect_right

from dontneed.abi import pagemap as abi
from dontneed.errors import DontneedError, KernelLacks, NotPermitted, ProcessGone
from dontneed.kernel.capabilities import read_privileges
from dontneed.kernel.pagemap import read_entries, scan_categories, scan_pages
from dontneed.kernel.procmap import read_mappings_at
from dontneed.kernel.status import read_moment
from dontneed.units import GIB, MIB, PAGE_BYTES, format_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from array import array
    from collections.abc import Iterator
    from typing import Any, Protocol

    from dontneed.kernel.kernel_memory import KernelMemory
    from dontneed.kernel.maps import MapsTable
    from dontneed.kernel.procfs import ProcessDirectory
    from dontneed.kernel.smaps import SmapsCounters

    class Kinds(Protocol):
        """The kind of each mapping, by row."""

        def __getitem__(self, row: int) -> str: ...
        def __setitem__(self, row: int, kind: str) -> None: ...
        def __iter__(self) -> Iterator[str]: ...


METHODS = ("auto", "page tables", "PAGEMAP_SCAN", "pagemap", "smaps")
"""Ways to count pages; `auto` takes the first that this kernel and the process allow, and says which."""

USER_SPACE_END = 1 << 56
"""Above any user mapping, with four levels of page tables and with five; vsyscall lies beyond it, without pages."""

_GAP_BYTES = GIB
"""Two mappings further apart than this are walked apart."""
LARGEST_READ_BYTES = 64 * GIB
"""More address space than this is not read entry by entry: 8 bytes a page, present or not."""
_CHUNK_BYTES = 512 * MIB

_APART = frozenset(("hugetlb", "vvar", "device", "file", "shared memory"))
"""Kinds of which some pages are not counted as RSS; files and memfds may be hugetlb."""

_STATES = abi.IS_PRESENT | abi.IS_SWAPPED | abi.IS_ZERO | abi.IS_GUARD


_SMALL_BYTES = 256 * MIB
"""Up to there counting byte by byte is done before arrays are made."""
_COLUMNS = ("rss", "accessed", "dirty", "huge", "zero", "swap")


class Residency:
    """Bytes per mapping, by row of a `MapsTable`.

    Attributes:
        method: one of `METHODS`, besides `auto`.
        rss, swap, huge, zero, accessed, dirty: bytes, one integer a mapping; all but the first two are None where the
            method cannot tell.
        hugetlb: bytes by row, for the few mappings that are hugetlb.
        unmatched_bytes: pages that belong to no mapping of the table: mapped after it was read.

    Args:
        mappings: how many.
        columns: what is counted already, all of it: lists, or arrays, which become lists when someone asks for them;
            None: nothing yet.
    """

    __slots__ = (*_COLUMNS, "_arrays", "hugetlb", "method", "unmatched_bytes")

    rss: list[int]
    swap: list[int]
    huge: list[int] | None
    zero: list[int] | None
    accessed: list[int] | None
    dirty: list[int] | None

    def __init__(self, method: str, mappings: int, columns: dict[str, Any] | None = None) -> None:
        self.method = method
        self._arrays: dict[str, Any] = {}
        for column in _COLUMNS:
            if columns is None:
                setattr(self, column, None if column in ("accessed", "dirty") else [0] * mappings)
            elif isinstance(columns[column], list):
                setattr(self, column, columns[column])
            else:
                self._arrays[column] = columns[column]
        self.hugetlb: dict[int, int] = {}
        self.unmatched_bytes = 0

    def __getattr__(self, column: str) -> list[int]:
        """A column that is an array still: made a list when someone asks for it."""
        if column not in _COLUMNS:
            msg = f"a Residency has no {column}"
            raise AttributeError(msg)
        values: list[int] = self._arrays.pop(column).tolist()
        setattr(self, column, values)
        return values

    def total(self, column: str) -> int | None:
        """The sum of a column; None where the method cannot tell."""
        if column in self._arrays:
            return int(self._arrays[column].sum())
        values = getattr(self, column)
        return None if values is None else sum(values)

    def rows_with(self, column: str) -> list[int]:
        """The mappings that have anything in a column."""
        if column in self._arrays:
            return [int(row) for row in self._arrays[column].nonzero()[0]]
        return [row for row, size in enumerate(getattr(self, column) or ()) if size]

    def set_apart(self, row: int) -> None:
        """Count a mapping as hugetlb: its pages are outside RSS."""
        self.hugetlb[row] = self.rss[row]
        for column in ("rss", "huge", "accessed", "dirty"):
            values = getattr(self, column)
            if values is not None:
                values[row] = 0


def count_pages(
    process: ProcessDirectory,
    table: MapsTable,
    kinds: Kinds,
    *,
    method: str,
    smaps: list[SmapsCounters] | None,
    notes: list[str],
) -> Residency:
    """Count the pages of every mapping by the method asked for, or by the first that works.

    Args:
        process: whose they are.
        table: its mappings.
        kinds: the kind of each, by row; a mapping that turns out to be hugetlb is renamed.
        method: one of `METHODS`.
        smaps: the kernel's own counters, if they were read: then they are what is reported, and zero pages are added.
        notes: what could not be seen is appended, in sentences.
    Raises:
        NotPermitted, KernelLacks: the method asked for is not there; `auto` goes on to the next.
    """
    counted = None
    if method in ("auto", "page tables"):
        counted = _count_by_tables(process, table, kinds, notes, required=method != "auto")
    if counted is None and method != "smaps":
        counted = _count_by_pagemap(process, table, kinds, method, notes)
    if smaps is None and counted is not None:
        if counted.method == "pagemap":
            notes.append("counted from pagemap entries: huge pages are not told apart, zero pages count as resident")
        return counted
    if smaps is None:
        from dontneed.kernel.smaps import SmapsCounters, read_smaps

        notes.append("pages were counted by smaps, which may stall a large process while it is read")
        later, counts = read_smaps(process)
        by_start = dict(zip(later.starts, counts, strict=True))
        smaps = [by_start.get(start) or SmapsCounters() for start in table.starts]  # what is gone by now holds nothing
    by_kernel = count_by_smaps(smaps)
    for row in by_kernel.hugetlb:
        kinds[row] = "hugetlb"
    if counted is not None and counted.zero is not None:
        by_kernel.zero, by_kernel.accessed = counted.zero, counted.accessed
        by_kernel.method = counted.method
    return by_kernel


def _count_by_tables(
    process: ProcessDirectory, table: MapsTable, kinds: Kinds, notes: list[str], *, required: bool
) -> Residency | None:
    """Count from the page tables; None where that is not to be had, and not required.

    Nobody but root may, so nobody else tries, and whoever was refused once is not asked again.
    """
    if not required and not _may_read_tables():
        return None
    from contextlib import ExitStack

    from dontneed.kernel.kernel_memory import kernel_memory

    with ExitStack() as held:
        try:
            memory = held.enter_context(kernel_memory())
        except (NotPermitted, KernelLacks) as error:
            if required:
                raise
            _refused.append(error)
            return None
        try:
            counted = count_by_tables(process, table, memory, notes)
        except DontneedError as error:  # of this process, this once; the next way may have more luck
            if required or isinstance(error, ProcessGone):
                raise
            return None
    doubtful = [row for row in counted.rows_with("huge") if kinds[row] in _APART]
    hugetlb = [row for row in doubtful if kinds[row] == "hugetlb"]
    for row in (*hugetlb, *_hugetlb_among(process, table, [row for row in doubtful if kinds[row] != "hugetlb"])):
        kinds[row] = "hugetlb"
        counted.set_apart(row)
    return counted


_refused: list[Exception] = []
"""Why this process cannot read page tables, once it knows."""


def _may_read_tables() -> bool:
    from dontneed.kernel.kernel_memory import is_kernel_memory_open

    return not _refused and (is_kernel_memory_open() or read_privileges().holds("CAP_SYS_ADMIN"))


def count_by_tables(process: ProcessDirectory, table: MapsTable, memory: KernelMemory, notes: list[str]) -> Residency:
    """Count from the page tables, with numpy where it is loaded already; hugetlb pages count as huge ones here.

    Raises:
        As `observe.tables.page_tables.walk`.
    """
    from dontneed.observe.tables.page_tables import dump, dump_plainly

    by_arrays = "numpy" in sys.modules and _is_large(process, table)
    counts = (dump if by_arrays else dump_plainly)(process, table, memory)
    columns = {column: getattr(counts, "swapped" if column == "swap" else column) for column in _COLUMNS}
    counted = Residency("page tables", len(counts.rss), columns)
    counted.unmatched_bytes = counts.unmatched_bytes
    notes += counts.notes
    if counts.unsettled_bytes:
        notes.append(f"{format_bytes(counts.unsettled_bytes)} of addresses changed each time their tables were read")
    return counted


def _is_large(process: ProcessDirectory, table: MapsTable) -> bool:
    """Whether arrays of its entries are worth their making."""
    return table.is_long or read_moment(process).rss_bytes > _SMALL_BYTES


def _count_by_pagemap(
    process: ProcessDirectory, table: MapsTable, kinds: Kinds, method: str, notes: list[str]
) -> Residency | None:
    try:
        fd = process.open("pagemap")
    except (NotPermitted, KernelLacks) as error:
        if method != "auto":
            raise
        notes.append(str(error))
        return None
    try:
        counted = None if method == "pagemap" else count_by_scan(fd, table)
        if counted is None and method == "PAGEMAP_SCAN":
            msg = "this kernel's pagemap has no PAGEMAP_SCAN"
            raise KernelLacks(msg, hint="it came with 6.7; the method 'pagemap' is there since 2.6.25")
        if counted is None:
            counted = count_by_entries(fd, table)
        if counted is None and method == "pagemap":
            msg = f"this process has more than {LARGEST_READ_BYTES // GIB} GiB of addresses: too much to read it all"
            raise KernelLacks(msg, hint="the methods 'PAGEMAP_SCAN' and 'smaps' go by pages, not by addresses")
        if counted is not None:
            _set_apart(process, fd, table, kinds, counted)
        return counted
    finally:
        os.close(fd)


def _set_apart(process: ProcessDirectory, fd: int, table: MapsTable, kinds: Kinds, counted: Residency) -> None:
    """Take out of RSS what the kernel does not count there: hugetlb pages, and frames without page structures."""
    hugetlb = []
    doubtful = []
    for row in [row for row, kind in enumerate(kinds) if kind in _APART]:
        kind, present = kinds[row], counted.rss[row]
        if kind == "hugetlb":
            hugetlb.append(row)
        elif kind == "vvar":
            counted.rss[row] = 0
        elif kind == "device":
            if present and table.words(row)[0].endswith("s") and counted.method == "PAGEMAP_SCAN":
                counted.rss[row] = present_in_file(fd, table.starts[row], table.ends[row])
        elif present and (counted.huge is None or counted.huge[row] == present):
            doubtful.append(row)
    for row in (*hugetlb, *_hugetlb_among(process, table, doubtful)):
        kinds[row] = "hugetlb"
        counted.set_apart(row)


def _hugetlb_among(process: ProcessDirectory, table: MapsTable, rows: list[int]) -> list[int]:
    """The rows that are hugetlb by their page size: a memfd, or a file of a hugetlbfs mounted anywhere.

    Before 6.11 (no PROCMAP_QUERY) such a mapping is not told apart, and counts as RSS.
    """
    if not rows:
        return []
    found = read_mappings_at(process, [table.starts[row] for row in rows])
    return [row for row, part in zip(rows, found, strict=False) if part is not None and part.page_bytes > PAGE_BYTES]


def count_by_scan(fd: int, table: MapsTable) -> Residency | None:
    """Count with PAGEMAP_SCAN; None where this kernel has none.

    Args:
        fd: the process's open pagemap.
        table: its mappings.
    """
    categories = scan_categories(fd)
    if not categories:
        return None
    counted = Residency("PAGEMAP_SCAN", len(table))
    for start, end in walked_ranges(table):
        # New mappings are mostly placed right below the lowest one: those are to be seen as unmatched.
        from_below = max(0, start - _GAP_BYTES // 2)
        for window in scan_pages(fd, from_below, end, wanted=abi.IS_PRESENT | abi.IS_SWAPPED, returned=categories):
            _add_window(counted, table, window)
    return counted


def count_by_entries(fd: int, table: MapsTable) -> Residency | None:
    """Count the entries of pagemap; None where there is too much address space to read it all.

    Huge and zero pages cannot be told from others here, and a zero page counts as resident.
    """
    spans = [(start, end) for start, end in zip(table.starts, table.ends, strict=True) if end <= USER_SPACE_END]
    if sum(end - start for start, end in spans) > LARGEST_READ_BYTES:
        return None
    import numpy as np

    counted = Residency("pagemap", len(table))
    counted.huge = counted.zero = None
    for row, (start, end) in enumerate(spans):
        for chunk in range(start, end, _CHUNK_BYTES):
            entries = read_entries(fd, chunk, min(end, chunk + _CHUNK_BYTES))
            swapped = (entries & np.uint64(abi.SWAP | abi.GUARD)) == np.uint64(abi.SWAP)
            counted.rss[row] += int(np.count_nonzero(entries >> np.uint64(63))) * PAGE_BYTES
            counted.swap[row] += int(np.count_nonzero(swapped)) * PAGE_BYTES
    return counted


def count_by_smaps(smaps: list[SmapsCounters]) -> Residency:
    """Take the kernel's own counts; zero pages are not in them."""
    counted = Residency("smaps", len(smaps))
    counted.zero = None
    counted.rss = [counters.rss_bytes for counters in smaps]
    counted.swap = [counters.swap_bytes for counters in smaps]
    counted.huge = [counters.huge_bytes for counters in smaps]
    counted.dirty = [counters.dirty_bytes for counters in smaps]
    counted.hugetlb = {row: counters.hugetlb_bytes for row, counters in enumerate(smaps) if counters.hugetlb_bytes}
    return counted


def present_in_file(fd: int, start: int, end: int) -> int:
    """Bytes in `[start, end)` that are present with a page structure of a file or device behind them.

    A driver may map frames that have none (VM_PFNMAP): present in the page map, and no part of RSS.
    """
    mask = abi.IS_PRESENT | abi.IS_FILE
    size = 0
    for window in scan_pages(fd, start, end, wanted=abi.IS_FILE, returned=mask):
        runs = iter(window)
        size += sum(
            upto - begin for begin, upto, categories in zip(runs, runs, runs, strict=True) if categories == mask
        )
    return size


def walked_ranges(table: MapsTable) -> Iterator[tuple[int, int]]:
    """Ranges that cover all user mappings of `table`, without the largest gaps between them."""
    starts, ends = table.starts, table.ends
    last = len(ends)
    while last and ends[last - 1] > USER_SPACE_END:
        last -= 1
    gaps = [
        row
        for row, (end, start) in enumerate(zip(ends[: last - 1], starts[1:last], strict=True), 1)
        if start - end > _GAP_BYTES
    ]
    for first, behind in zip([0, *gaps], [*gaps, last], strict=True):
        if first < behind:
            yield starts[first], ends[behind - 1]


def _add_window(counted: Residency, table: MapsTable, window: array[int]) -> None:
    """Add the runs of a window to the mappings they lie in; a run may cross from one mapping into the next."""
    starts, ends, rss = table.starts, table.ends, counted.rss
    row = bisect_right(starts, window[0]) - 1
    if row >= 0 and window[-2] <= ends[row] and _add_alike(counted, row, window):
        return
    row = max(row, 0)
    last = len(starts) - 1
    runs = iter(window)
    for start, end, categories in zip(runs, runs, runs, strict=True):
        while ends[row] <= start and row < last:
            row += 1
        if not (starts[row] <= start and end <= ends[row]):
            row = _add_across(counted, table, row, start, end, categories)
        elif categories == abi.IS_PRESENT:  # nearly all
            rss[row] += end - start
        else:
            _add_run(counted, row, end - start, categories)


def _add_across(counted: Residency, table: MapsTable, row: int, start: int, end: int, categories: int) -> int:
    """Add a run that may reach from mapping `row` into later ones, or lie in no mapping; the row where it ends."""
    starts, ends = table.starts, table.ends
    last = len(starts) - 1
    while start < end:
        while ends[row] <= start and row < last:
            row += 1
        if starts[row] <= start < ends[row]:
            upto = min(end, ends[row])
            _add_run(counted, row, upto - start, categories)
        else:  # in a gap of the table, or behind its end
            upto = min(end, starts[row]) if start < starts[row] else end
            counted.unmatched_bytes += upto - start
        start = upto
    return row


def _add_alike(counted: Residency, row: int, window: array[int]) -> bool:
    """Add a window that lies in one mapping, if all its runs are of one kind: sums instead of a loop over runs."""
    categories = window[2::3]
    if categories.count(categories[0]) != len(categories):
        return False
    _add_run(counted, row, sum(window[1::3]) - sum(window[0::3]), categories[0])
    return True


def _add_run(counted: Residency, row: int, size: int, categories: int) -> None:
    """Add `size` bytes of pages of one kind to a mapping."""
    state = categories & _STATES
    if state == abi.IS_PRESENT:
        counted.rss[row] += size
        if categories & abi.IS_HUGE and counted.huge is not None:
            counted.huge[row] += size
    elif state == abi.IS_SWAPPED:
        counted.swap[row] += size
    elif state & abi.IS_ZERO and counted.zero is not None:
        counted.zero[row] += size
