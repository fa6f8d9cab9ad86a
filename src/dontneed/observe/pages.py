"""The page map: every page of a process that is there, as runs of pages alike, with frame numbers when permitted."""

from __future__ import annotations

import os

from dontneed.abi import pagemap as abi
from dontneed.errors import KernelLacks
from dontneed.kernel.pagemap import read_entries, scan_pages
from dontneed.observe.residency import LARGEST_READ_BYTES, walked_ranges
from dontneed.units import PAGE_BYTES, round_down

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    import numpy

    from dontneed.kernel.maps import MapsTable
    from dontneed.kernel.pagemap import Words
    from dontneed.kernel.procfs import ProcessDirectory

_JOIN_BYTES = 2 << 20
"""Populated runs closer than this are read as one: an empty entry costs less than another read."""
_CHUNK_BYTES = 1 << 30

_STATE_BITS = abi.PRESENT | abi.SWAP | abi.FILE | abi.EXCLUSIVE | abi.GUARD


class PageMap:
    """The pages of a process that are there, in runs.

    Attributes:
        runs: a numpy structured array, a row for each run of pages alike, in address order. `start`, `end`: addresses;
            `frame`: the number of the first frame, the others follow it; 0 where frames are hidden or nothing is
            present; and the booleans `present`, `swapped`, `file`, `exclusive`, `guard`, and `repeated`: all pages
            are on that one frame, the zero page.
        frames_shown: whether the kernel let us see frame numbers (CAP_SYS_ADMIN).
    """

    __slots__ = ("frames_shown", "runs")

    def __init__(self, runs: numpy.ndarray) -> None:
        self.runs = runs
        self.frames_shown = bool(runs["frame"].any())

    def __len__(self) -> int:
        return len(self.runs)

    def __repr__(self) -> str:
        return f"<PageMap: {len(self)} runs, frames {'shown' if self.frames_shown else 'hidden'}>"

    @property
    def present_bytes(self) -> int:
        """Bytes present, zero pages among them."""
        present = self.runs[self.runs["present"]]
        return int((present["end"] - present["start"]).sum())

    def within(self, start: int, end: int) -> numpy.ndarray:
        """The runs that lie at least partly in `[start, end)`."""
        return self.runs[(self.runs["end"] > start) & (self.runs["start"] < end)]


def read_page_map(process: ProcessDirectory, table: MapsTable) -> PageMap:
    """The page map of all mappings of `table`; only what is populated is read, 2 MiB at a time.

    Raises:
        NotPermitted, KernelLacks: no pagemap; or no PAGEMAP_SCAN, and too much address space to read it all.
        ProcessGone: the process ended meanwhile.
    """
    import numpy as np

    fd = process.open("pagemap")
    try:
        parts = [decode_entries(start, read_entries(fd, start, end)) for start, end in _populated(fd, table)]
    finally:
        os.close(fd)
    return PageMap(np.concatenate(parts) if parts else np.zeros(0, _row_type()))


def decode_entries(start: int, entries: Words) -> numpy.ndarray:
    """Pagemap entries of neighbouring pages as runs. Pure.

    Two neighbours are linked when their entries differ by one (the next frame, in the same state) or not at all (the
    same frame, a hidden one, nothing), or when both are swapped out; a run is a chain of links of one sort.

    Args:
        start: address of the first page.
        entries: uint64, one a page.
    Returns:
        Rows as `PageMap.runs`; pages that are not there are in none.
    """
    import numpy as np

    if not len(entries):
        return np.zeros(0, _row_type())
    step = entries[1:] - entries[:-1]
    link = (step == 1).view(np.uint8) * np.uint8(_FOLLOWS) + (step == 0).view(np.uint8) * np.uint8(_SAME)
    link[_both_swapped(entries)] = _SWAPPED
    cut = link == 0
    cut[1:] |= (link[1:] != link[:-1]) & (link[:-1] != 0)
    first = np.flatnonzero(np.concatenate(([True], cut)))
    last = np.append(first[1:], len(entries))
    there = entries[first] & np.uint64(abi.PRESENT | abi.SWAP | abi.GUARD) != 0
    first, last = first[there], last[there]
    return _rows(start, first, last, entries[first], repeated=entries[last - 1] == entries[first])


_FOLLOWS, _SAME, _SWAPPED = 1, 2, 3


def _both_swapped(entries: Words) -> numpy.ndarray[Any, numpy.dtype[numpy.bool_]]:
    """Which neighbours are both swapped out: their entries say where to, and that may be anywhere."""
    import numpy as np

    states = entries & np.uint64(abi.SWAP | abi.GUARD | abi.FILE)
    swapped = (states & ~np.uint64(abi.FILE)) == np.uint64(abi.SWAP)
    both: numpy.ndarray[Any, numpy.dtype[numpy.bool_]] = swapped[1:] & (states[1:] == states[:-1])
    return both


def _rows(
    start: int, first: numpy.ndarray, last: numpy.ndarray, entries: Words, *, repeated: numpy.ndarray
) -> numpy.ndarray:
    """Runs as rows, from the numbers of their first pages and of those behind their last, and their first entries."""
    import numpy as np

    rows = np.zeros(len(first), _row_type())
    rows["start"] = np.uint64(start) + first.astype(np.uint64) * np.uint64(PAGE_BYTES)
    rows["end"] = np.uint64(start) + last.astype(np.uint64) * np.uint64(PAGE_BYTES)
    rows["frame"] = np.where(entries >= np.uint64(abi.PRESENT), entries & np.uint64(abi.PFN_MASK), np.uint64(0))
    rows["repeated"] = repeated & (last - first > 1) & (rows["frame"] != 0)
    for name, bit in _STATE_NAMES:
        rows[name] = entries & np.uint64(bit) != 0
    return rows


_STATE_NAMES = (
    ("present", abi.PRESENT),
    ("swapped", abi.SWAP),
    ("file", abi.FILE),
    ("exclusive", abi.EXCLUSIVE),
    ("guard", abi.GUARD),
)


def _row_type() -> numpy.dtype[numpy.void]:
    import numpy as np

    states = ((name, "?") for name, _ in _STATE_NAMES)
    return np.dtype([("start", "<u8"), ("end", "<u8"), ("frame", "<u8"), *states, ("repeated", "?")])


def _populated(fd: int, table: MapsTable) -> Iterator[tuple[int, int]]:
    """Where there are pages, in pieces that are worth a read each; all mappings where PAGEMAP_SCAN is absent."""
    try:
        yield from _cut(_joined(_scanned(fd, table)))
    except KernelLacks:
        ranges = list(walked_ranges(table))
        if sum(end - start for start, end in ranges) > LARGEST_READ_BYTES:
            raise
        yield from _cut(ranges)


def _scanned(fd: int, table: MapsTable) -> Iterator[tuple[int, int]]:
    either = abi.IS_PRESENT | abi.IS_SWAPPED
    for start, end in walked_ranges(table):
        for window in scan_pages(fd, start, end, wanted=either, returned=either):
            runs = iter(window)
            for begin, upto, _ in zip(runs, runs, runs, strict=True):
                yield begin, upto


def _joined(runs: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    begin = reached = 0
    for start, end in runs:
        if reached and start - reached <= _JOIN_BYTES:
            reached = end
            continue
        if reached:
            yield begin, reached
        begin, reached = start, end
    if reached:
        yield begin, reached


def _cut(ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Cut ranges at multiples of 1 GiB, so that no array of entries is longer than 2 MiB."""
    for start, end in ranges:
        for chunk in range(round_down(start, _CHUNK_BYTES), end, _CHUNK_BYTES):
            yield max(start, chunk), min(end, chunk + _CHUNK_BYTES)
