"""/proc/PID/pagemap: which pages are present, swapped, huge or zero (PAGEMAP_SCAN), and on which frames (read).

# How to walk a large process without stalling it

The walk holds the target's mmap_lock for reading; the target's own mmap, munmap and brk wait for it. Measured on 6.18
in a target that maps and unmaps all the time while 4 GiB of its pages are walked: one call for all makes it wait up to
50 ms; windows of 512 pages in a tight loop have a p50 of 0.1 ms, because the next window takes the lock before the
waiter has woken up; windows of 512 pages with a breath of some µs between them 8 µs, for twice the walking time.

So the walk is courteous by feedback: it begins with small windows and lets them grow while nobody competes for the
lock. It halves them when one takes longer than its pages can explain (someone held the lock, or it is noise), and
returns to the smallest, with breaths, when that happens twice within a millisecond. So a process at rest is walked
fast, and a busy one waits a small part of what smaps costs it (benchmarks/stall.py). A walk is also cut by address,
since page tables that are there and empty cost time and count no pages.

Kernel:
    fs/proc/task_mmu.c do_pagemap_scan(), pagemap_read(). PAGEMAP_SCAN since 6.7; entries since 2.6.25, frame numbers
    for CAP_SYS_ADMIN only (4.2). Asking for IS_FILE costs 2.5 times the walk: take file or anonymous from the mapping.
"""

from __future__ import annotations

import errno
import os
from array import array
from fcntl import ioctl
from time import perf_counter_ns

from dontneed.abi import pagemap as abi
from dontneed.errors import KernelLacks, ProcessGone
from dontneed.units import GIB, PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    import numpy as np

    Words = np.ndarray[Any, np.dtype[np.uint64]]
    """64-bit words, such as pagemap entries and frame numbers."""

_SMALL_WINDOW_PAGES = 512
_LARGE_WINDOW_PAGES = 4096
_WINDOW_BYTES = 4 * GIB
_CALM_WINDOWS_TO_GROW = 8
_WINDOWS_OF_CARE = 512
_CLOSE_NS = 1_000_000
"""One window that took too long may be mere noise; two within a millisecond say that someone wants the lock."""
_BREATH_NS = 5_000
_QUIET_NS, _QUIET_NS_A_PAGE = 40_000, 12
"""A window without competition stays below this: 7 ns a page were measured, and a system call of a few µs."""
_ROWS = 1024
_ROW_WORDS = 3
_ENTRIES_A_READ = 512
"""Entries a read: one page table, 2 MiB of addresses, is what the kernel walks under one lock anyway."""


class Courtesy:
    """How large the next window may be, and whether to pause before it, from how long the last one took."""

    __slots__ = ("_calm", "_last_sign_ns", "window_pages")

    def __init__(self) -> None:
        self.window_pages = _SMALL_WINDOW_PAGES
        self._calm = 0
        self._last_sign_ns = -2 * _CLOSE_NS

    def after_window(self, elapsed_ns: int) -> None:
        """Learn from a window that took `elapsed_ns`; pause if someone else wants the lock."""
        if elapsed_ns > _QUIET_NS + self.window_pages * _QUIET_NS_A_PAGE:
            now = perf_counter_ns()
            if now - elapsed_ns - self._last_sign_ns < _CLOSE_NS:
                self.window_pages = _SMALL_WINDOW_PAGES
                self._calm = -_WINDOWS_OF_CARE
            else:
                self.window_pages = max(_SMALL_WINDOW_PAGES, self.window_pages // 2)
                self._calm = 0
            self._last_sign_ns = now
        else:
            self._calm += 1
            if self._calm == _CALM_WINDOWS_TO_GROW and self.window_pages < _LARGE_WINDOW_PAGES:
                self.window_pages *= 2
                self._calm = 0
        if self._calm < 0:
            _breathe()


def scan_pages(
    fd: int, start: int, end: int, *, wanted: int, returned: int, at_once: bool = False
) -> Iterator[array[int]]:
    """The runs of pages in `[start, end)` that are in any category of `wanted`, in windows.

    Args:
        fd: an open `/proc/PID/pagemap`.
        start: page-aligned address.
        end: page-aligned address.
        wanted: mask of `abi.pagemap.IS_*`: which pages.
        returned: mask of `abi.pagemap.IS_*`: what to say of each.
        at_once: in windows of any number of pages: for the own process, which knows what it does.
    Yields:
        Arrays of start, end, categories, start, end, categories, … of the runs of one window; runs of one kind are
        joined across mappings.
    Raises:
        KernelLacks: no PAGEMAP_SCAN, or a category that it does not know.
        ProcessGone: the process has given up its memory.
    Kernel:
        since 6.7; fs/proc/task_mmu.c; PAGEMAP_SCAN.
    """
    call = array("Q", bytes(abi.SCAN_ARG_BYTES))
    call[abi.SCAN_ANYOF] = wanted
    call[abi.SCAN_RETURN] = returned
    return _scan(fd, start, end, call, at_once=at_once)


def scan_written(
    fd: int, start: int, end: int, *, wanted: int, barred: int, protect: bool = False
) -> Iterator[array[int]]:
    """The runs of pages that are not write-protected by a userfaultfd, as `scan_pages` yields them.

    Args:
        fd: an open `/proc/PID/pagemap`.
        start: page-aligned address.
        end: page-aligned address.
        wanted: mask of `abi.pagemap.IS_*`: pages in any of these,
        barred: and in none of these.
        protect: write-protect what is found, where an asynchronous userfaultfd watches, and skip all other memory.
    Raises:
        KernelLacks, ProcessGone: as `scan_pages`.
    """
    call = array("Q", bytes(abi.SCAN_ARG_BYTES))
    call[abi.SCAN_FLAGS] = abi.SCAN_WRITE_PROTECT if protect else 0
    call[abi.SCAN_INVERTED], call[abi.SCAN_MASK] = barred, abi.IS_WRITTEN | barred
    call[abi.SCAN_ANYOF] = wanted
    call[abi.SCAN_RETURN] = abi.IS_WRITTEN
    return _scan(fd, start, end, call, at_once=False)


def _scan(fd: int, start: int, end: int, call: array[int], *, at_once: bool) -> Iterator[array[int]]:
    """The runs of pages that a call is for, in windows."""
    rows = array("Q", bytes(_ROWS * _ROW_WORDS * 8))
    call[abi.SCAN_SIZE] = abi.SCAN_ARG_BYTES
    call[abi.SCAN_VEC] = rows.buffer_info()[0]
    call[abi.SCAN_VEC_LEN] = _ROWS
    courtesy = Courtesy()
    while start < end:
        call[abi.SCAN_START] = start
        call[abi.SCAN_END] = min(end, start + _WINDOW_BYTES)
        call[abi.SCAN_MAX_PAGES] = 0 if at_once else courtesy.window_pages
        began = perf_counter_ns()
        try:
            found = ioctl(fd, abi.PAGEMAP_SCAN, call)
        except OSError as error:
            raise _scan_error(error) from None
        if not at_once:
            courtesy.after_window(perf_counter_ns() - began)
        reached = call[abi.SCAN_WALK_END]
        if found:
            yield rows[: found * _ROW_WORDS]
        if reached <= start:  # no progress would be an endless walk; the address space has been taken down
            msg = "the process gave up its memory while it was walked"
            raise ProcessGone(msg)
        start = reached


def scan_categories(fd: int) -> int:
    """Every category that this kernel's PAGEMAP_SCAN can name, by asking for them; 0 without PAGEMAP_SCAN."""
    everything = abi.IS_PRESENT | abi.IS_SWAPPED | abi.IS_ZERO | abi.IS_HUGE
    for mask in (everything | abi.IS_GUARD, everything):
        try:
            for _ in scan_pages(fd, 0, PAGE_BYTES, wanted=abi.IS_PRESENT, returned=mask):
                pass
        except KernelLacks:
            continue
        return mask
    return 0


def read_entries(fd: int, start: int, end: int) -> Words:
    """The pagemap entry of every page in `[start, end)`, 2 MiB of addresses a read.

    Args:
        fd: an open `/proc/PID/pagemap`.
        start: page-aligned address.
        end: page-aligned address.
    Returns:
        uint64 of shape (pages,); bits as `abi.pagemap` names them; 0 where nothing is mapped.
    Raises:
        ProcessGone: the process has given up its memory.
    """
    import numpy as np

    entries = np.zeros((end - start) // PAGE_BYTES, np.uint64)
    view = memoryview(entries.data).cast("B")
    done = 0
    while done < len(view):
        page = start // PAGE_BYTES + done // abi.ENTRY_BYTES
        upto = done + (_ENTRIES_A_READ - page % _ENTRIES_A_READ) * abi.ENTRY_BYTES
        count = os.preadv(fd, [view[done:upto]], page * abi.ENTRY_BYTES)
        if count <= 0:
            msg = "the process gave up its memory while its page map was read"
            raise ProcessGone(msg)
        done += count
    return entries


def read_own_entries(fd: int, start: int, end: int) -> Words:
    """As `read_entries`, for the calling process: in one read, and with the GIL held, some 0.03 µs a page."""
    import numpy as np

    from dontneed.kernel.libc import pread_held

    entries = np.zeros((end - start) // PAGE_BYTES, np.uint64)
    done = 0
    while done < entries.nbytes:
        offset = start // PAGE_BYTES * abi.ENTRY_BYTES + done
        count = pread_held(fd, entries.ctypes.data + done, entries.nbytes - done, offset)
        if count <= 0:
            msg = "there are no addresses so high, or the page map is closed"
            raise ProcessGone(msg)
        done += count
    return entries


def _breathe() -> None:
    """Stay away from the lock for a moment that a sleep could not measure: it would take 60 µs."""
    until = perf_counter_ns() + _BREATH_NS
    while perf_counter_ns() < until:
        pass


def _scan_error(error: OSError) -> Exception:
    if error.errno in (errno.ENOTTY, errno.EINVAL):
        return KernelLacks("this kernel's pagemap has no PAGEMAP_SCAN with these categories", hint="it came with 6.7")
    if error.errno in (errno.ESRCH, errno.EFAULT):
        return ProcessGone("the process ended while its pages were walked")
    return error
