"""Resident private anonymous pages that hold nothing but zeros: a page that is not there reads the same.

# How they are found without stalling their process

Every page has to be read, from outside, while the process runs. process_vm_readv pins up to 1,024 pages of a range
under the process's mmap_lock, lets go of it, and copies then. Ranges of 64 pages hold the lock for some 10 µs of every
60, and no further breath is needed: whoever waits for the lock gets in between. What is read counts as used
(mark_page_accessed): a search makes memory look warm to the kernel's reclaim for a while, and to smaps.

Only pages that the process maps alone are read. Since 5.19 a page that is shared since a fork is *copied* when it is
pinned (gup_must_unshare()), so that reading a forked worker would make it grow by all that it has in common with its
parent; and dropping such a page would free nothing anyway.

One word of every page is read first, for a third of what it takes to read and look through the page; what is not zero
mostly shows there. The others are read whole, sampled at three words, and only then looked through.

# Huge pages

A zero page inside a huge page that also holds data frees nothing when it goes: the huge page stays whole in memory.
Only huge pages that are zero altogether count; the rest is told as `in_huge_bytes`. Where the kernel cannot say which
pages are huge (before 6.7), every page is taken to be part of one.
"""

from __future__ import annotations

import os

from dontneed.abi import pagemap as abi
from dontneed.errors import KernelLacks
from dontneed.kernel.process_memory import read_each, read_ranges
from dontneed.observe.resident import find_anonymous, scan_runs
from dontneed.observe.slices import rows_in_slices
from dontneed.records import Record
from dontneed.spans import Spans
from dontneed.units import MIB, PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    import numpy as np

    from dontneed.kernel.pagemap import Words
    from dontneed.kernel.process_memory import Bytes
    from dontneed.kernel.procfs import ProcessDirectory

    Truths = np.ndarray[Any, np.dtype[np.bool_]]

_WINDOW_BYTES = 4 * MIB
_PINNED_BYTES = 64 * PAGE_BYTES
_WORD_BYTES = 8
_PAGE_WORDS = PAGE_BYTES // _WORD_BYTES
_SAMPLED = (0, _PAGE_WORDS * 3 // 8, _PAGE_WORDS - 1)
_SAMPLED_AT_ONCE_BYTES = 256 * MIB
_ROWS_AT_ONCE = 256
"""Pages whose every word is looked at together: they stay in the processor's cache."""


class ZeroPages(Record):
    """Zero pages that free a frame each when they go, and what would not.

    Attributes:
        small: pages of their own.
        huge: whole huge pages.
        in_huge_bytes: zero, inside huge pages that hold data as well.
        shared_bytes: not looked at, for another process maps it too.
        read_bytes: how much was looked at.
    """

    small: Spans
    huge: Spans
    in_huge_bytes: int
    shared_bytes: int
    read_bytes: int


def find_zero_pages(process: ProcessDirectory, spans: Spans) -> ZeroPages:
    """Look for zero pages in `spans`, private anonymous memory of a process that runs meanwhile.

    Raises:
        NotPermitted, ProcessGone, KernelLacks: it cannot be read.
    """
    resident = find_anonymous(process, spans)
    zero_page, huge = _kinds(process, spans)
    small = resident.alone - huge
    huge &= resident.alone
    buffer = new_buffer()
    zero_in_huge = _zero_in_windows(process.pid, _doubtful(process.pid, huge), buffer)
    zero_huge = zero_in_huge.inward_huge()
    return ZeroPages(
        small=_zero_in_windows(process.pid, _doubtful(process.pid, small), buffer),
        huge=zero_huge,
        in_huge_bytes=zero_in_huge.size_bytes - zero_huge.size_bytes,
        shared_bytes=(resident.shared - zero_page).size_bytes,
        read_bytes=resident.alone.size_bytes,
    )


def still_zero(process: ProcessDirectory, spans: Spans, buffer: Bytes) -> Spans:
    """The pages in `spans` that are present, anonymous, this process's alone, and zero; for a process that is held.

    Args:
        process: whose they are.
        spans: pages that were zero when they were found.
        buffer: from `new_buffer`.
    Raises:
        NotPermitted, ProcessGone, KernelLacks: it cannot be read.
    """
    return _zero_in_windows(process.pid, find_anonymous(process, spans).alone, buffer)


def new_buffer() -> Bytes:
    """A buffer to read into, a window long: its pages are there, and it stays in the processor's cache."""
    import numpy as np

    return np.ones(_WINDOW_BYTES, np.uint8)


def zero_rows(pages: Words) -> Truths:
    """Which pages are all zero. Pure.

    Args:
        pages: their words, a row for each.
    """
    import numpy as np

    first, *others = (pages[:, word] for word in _SAMPLED)
    sampled = first.copy()
    for words in others:
        sampled |= words
    zero: Truths = sampled == 0
    doubtful = np.flatnonzero(zero)
    for begin in range(0, len(doubtful), _ROWS_AT_ONCE):
        rows = doubtful[begin : begin + _ROWS_AT_ONCE]
        side_by_side = rows[-1] - rows[0] + 1 == len(rows)
        looked_at = pages[rows[0] : rows[-1] + 1] if side_by_side else pages[rows]
        zero[rows] = looked_at.max(axis=1) == 0
    return zero


def _kinds(process: ProcessDirectory, spans: Spans) -> tuple[Spans, Spans]:
    """Where the kernel's own zero page is mapped, and where huge pages are."""
    import numpy as np

    fd = process.open("pagemap")
    try:
        runs = scan_runs(fd, spans, abi.IS_PRESENT | abi.IS_ZERO | abi.IS_HUGE)
    except KernelLacks:  # before 6.7: perhaps all of it is huge
        return Spans(), spans
    finally:
        os.close(fd)
    is_zero, is_huge = (runs[:, 2] & np.uint64(bit) != 0 for bit in (abi.IS_ZERO, abi.IS_HUGE))
    return Spans.from_array(runs[is_zero, :2]), Spans.from_array(runs[is_huge, :2])


def _doubtful(pid: int, spans: Spans) -> Spans:
    """The pages in `spans` of which one word is zero: all that are zero, and a few more."""
    import numpy as np

    found = [np.zeros(0, np.uint64)]
    for rows in rows_in_slices(spans, _SAMPLED_AT_ONCE_BYTES):
        pages = _page_addresses(rows)
        words, could_be_read = read_each(pid, pages + np.uint64(_SAMPLED[1] * _WORD_BYTES), _WORD_BYTES)
        found.append(pages[could_be_read & (words.view(np.uint64)[:, 0] == 0)])
    return Spans.of_pages(np.concatenate(found))


def _zero_in_windows(pid: int, spans: Spans, buffer: Bytes) -> Spans:
    """The zero pages in `spans`; what lies behind a hole that opened meanwhile is left out, up to the next window."""
    import numpy as np

    found = [np.zeros(0, np.uint64)]
    for rows in rows_in_slices(spans, len(buffer)):
        read = read_ranges(pid, Spans.from_array(rows).split(_PINNED_BYTES), buffer) // PAGE_BYTES
        pages = buffer[: read * PAGE_BYTES].view(np.uint64).reshape(-1, _PAGE_WORDS)
        found.append(_page_addresses(rows)[:read][zero_rows(pages)])
    return Spans.of_pages(np.concatenate(found))


def _page_addresses(rows: Words) -> Words:
    """The address of every page in some rows `[start, end)`."""
    import numpy as np

    counts = ((rows[:, 1] - rows[:, 0]) // np.uint64(PAGE_BYTES)).astype(np.intp)
    nth = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)
    addresses: Words = np.repeat(rows[:, 0], counts) + nth.astype(np.uint64) * np.uint64(PAGE_BYTES)
    return addresses
