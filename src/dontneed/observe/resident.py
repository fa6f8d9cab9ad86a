"""Which pages of some memory are there, and which of them nobody else maps: what frees a frame when it goes.

The entries of the page map say it without special rights: present, of a file or anonymous, and mapped by this process
alone. The shared zero page is nobody's alone, so that it never counts among those.

Kernel:
    pagemap since 2.6.25, its exclusive bit 4.2. For a part of a large folio that bit may speak of the whole folio.
"""

from __future__ import annotations

import os

from dontneed.abi import pagemap as abi
from dontneed.errors import KernelLacks
from dontneed.kernel.pagemap import read_entries, scan_pages
from dontneed.records import Record
from dontneed.spans import Spans
from dontneed.units import GIB, HUGE_PAGE_BYTES, MIB, PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    import numpy as np

    from dontneed.kernel.pagemap import Words
    from dontneed.kernel.procfs import ProcessDirectory

    Truths = np.ndarray[Any, np.dtype[np.bool_]]

_CHUNK_BYTES = 64 * MIB
_LARGEST_READ_BYTES = 64 * GIB
"""More addresses than this are not read entry by entry."""


class Resident(Record):
    """Pages that are there.

    Attributes:
        alone: mapped by this process and by no other.
        shared: mapped by others as well.
    """

    alone: Spans
    shared: Spans


def find_anonymous(process: ProcessDirectory, spans: Spans) -> Resident:
    """The anonymous pages in `spans`; private copies of a file's pages are among them.

    Raises:
        NotPermitted, ProcessGone, KernelLacks: the page map cannot be read.
    """
    return _find(process, spans, 0)


def find_of_files(process: ProcessDirectory, spans: Spans) -> Resident:
    """The pages in `spans` that are those of a file, or of shared memory, itself; private copies are not.

    Raises:
        NotPermitted, ProcessGone, KernelLacks: the page map cannot be read.
    """
    return _find(process, spans, abi.FILE)


def scan_runs(fd: int, spans: Spans, returned: int) -> Words:
    """Runs of present pages in `spans` and close around them, rows of start, end and categories.

    Args:
        fd: an open `/proc/PID/pagemap`.
        spans: where to look.
        returned: mask of `abi.pagemap.IS_*`: what to say of each run.
    Raises:
        KernelLacks: no PAGEMAP_SCAN.
        ProcessGone: the process has given up its memory.
    """
    import numpy as np

    found = [np.zeros((0, 3), np.uint64)]
    for start, end in _tables_of(spans.array).array.tolist():
        windows = scan_pages(fd, start, end, wanted=abi.IS_PRESENT, returned=returned)
        found.extend(np.array(window, np.uint64).reshape(-1, 3) for window in windows)
    return np.concatenate(found)


def _find(process: ProcessDirectory, spans: Spans, kind: int) -> Resident:
    import numpy as np

    alone, shared = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint64)]
    fd = process.open("pagemap")
    try:
        for start, end in _populated(fd, spans):
            entries = read_entries(fd, start, end)
            of_kind = (entries & np.uint64(abi.PRESENT | abi.FILE)) == np.uint64(abi.PRESENT | kind)
            is_alone = entries & np.uint64(abi.EXCLUSIVE) != 0
            alone.append(_addresses(start, of_kind & is_alone))
            shared.append(_addresses(start, of_kind & ~is_alone))
    finally:
        os.close(fd)
    return Resident(Spans.of_pages(np.concatenate(alone)) & spans, Spans.of_pages(np.concatenate(shared)) & spans)


def _addresses(start: int, chosen: Truths) -> Words:
    """The addresses of the chosen pages, of which the first is at `start`."""
    import numpy as np

    addresses: Words = np.uint64(start) + np.flatnonzero(chosen).astype(np.uint64) * np.uint64(PAGE_BYTES)
    return addresses


def _populated(fd: int, spans: Spans) -> Iterator[tuple[int, int]]:
    """Where in `spans` there are pages, give or take a page table, in pieces that are worth a few reads each."""
    try:
        near = _tables_of(scan_runs(fd, spans, abi.IS_PRESENT)) & _tables_of(spans.array)
    except KernelLacks:
        near = _tables_of(spans.array)
        if near.size_bytes > _LARGEST_READ_BYTES:
            raise
    yield from near.split(_CHUNK_BYTES).tolist()


def _tables_of(rows: Words) -> Spans:
    """What the page tables that lead to these rows map: far fewer pieces than there may be rows."""
    import numpy as np

    in_table = np.uint64(HUGE_PAGE_BYTES - 1)
    return Spans.from_array(np.column_stack((rows[:, 0] & ~in_table, (rows[:, 1] + in_table) & ~in_table)))
