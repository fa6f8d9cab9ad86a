"""Which pages of some mappings are there: for a reader who must not touch those that are not.

process_vm_readv touches what it reads: of a page that was never written it would leave the zero page behind, one that
is swapped out it would bring back, and one that is shared since a fork it would copy (see kernel/process_memory.py).
"""

from __future__ import annotations

import os

from dontneed.abi import pagemap as abi
from dontneed.errors import KernelLacks
from dontneed.kernel.pagemap import read_entries
from dontneed.observe.resident import scan_runs
from dontneed.records import Record
from dontneed.spans import Spans
from dontneed.units import GIB, PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    import numpy as np

    from dontneed.kernel.pagemap import Words
    from dontneed.kernel.procfs import ProcessDirectory

    Truths = np.ndarray[Any, np.dtype[np.bool_]]

_RETURNED = abi.IS_PRESENT | abi.IS_ZERO | abi.IS_HUGE


class Presence(Record):
    """Pages that are on frames of their own, at one moment.

    Attributes:
        present: all of them; the shared zero page is on no frame of its own.
        huge: those mapped by huge pages; none where the kernel cannot tell.
        alone: those that no other process maps; as far as anybody asked, else all of them.
    """

    present: Spans
    huge: Spans
    alone: Spans | None = None

    def has(self, addresses: Words) -> Truths:
        """Whether the page of each address is there."""
        return lie_within(self.present, addresses)

    def has_alone(self, addresses: Words) -> Truths:
        """Whether the page of each address is there, and the process's alone."""
        return lie_within(self.present if self.alone is None else self.alone, addresses)


def read_presence(process: ProcessDirectory, spans: Spans) -> Presence:
    """Look which pages of `spans` are there; touches none of them.

    Raises:
        NotPermitted, KernelLacks, ProcessGone: as `ProcessDirectory.open`.
    """
    fd = process.open("pagemap")
    try:
        try:
            return _scanned(fd, spans)
        except KernelLacks:  # no PAGEMAP_SCAN before 6.7
            return _counted(fd, spans)
    finally:
        os.close(fd)


def lie_within(spans: Spans, addresses: Words) -> Truths:
    """Whether each address lies in one of the spans."""
    import numpy as np

    edges = spans.array.reshape(-1).searchsorted(addresses.astype(np.uint64, copy=False), side="right")
    return (edges % 2).astype(np.bool_)


def _scanned(fd: int, spans: Spans) -> Presence:
    runs = scan_runs(fd, spans, _RETURNED)
    runs = runs[(runs[:, 2] & abi.IS_ZERO) == 0]
    huge = Spans.from_array(runs[(runs[:, 2] & abi.IS_HUGE) != 0, :2])
    return Presence(Spans.from_array(runs[:, :2]) & spans, huge & spans)


def _counted(fd: int, spans: Spans) -> Presence:
    import numpy as np

    found = [np.zeros(0, np.uint64)]
    for start, end in spans.split(GIB).tolist():
        there = np.flatnonzero(read_entries(fd, start, end) & np.uint64(abi.PRESENT))
        found.append(np.uint64(start) + there.astype(np.uint64) * np.uint64(PAGE_BYTES))
    return Presence(Spans.of_pages(np.concatenate(found)), Spans())
