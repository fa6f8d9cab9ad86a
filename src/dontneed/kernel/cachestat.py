"""What of an open file is in the page cache: cachestat(2) counts, mincore(2) says which pages. No page is touched.

Facts, and what they mean for us:

- cachestat counts folios without mapping anything: 4 GiB take some milliseconds, and a small file a fifth of a
  microsecond. It is told the length of the file, or it would count what a large folio has beyond the end as well.
- cachestat looks at the file's own mapping, and a file of an overlay has none: its pages are those of the layer below.
  It answers 0 then, however much is cached. mincore follows the mapping to the layer: it is asked on an overlay.
- Since 6.14, and in older kernels that were mended, cachestat is for the owner of a file, or who may write to it, or
  has CAP_FOWNER: EPERM for all others. A seccomp filter says EPERM (or ENOSYS) too, so that whether the call is there
  at all is tried on a file of our own.
- mincore has the same rule since 5.2, and no way to say so: it answers that every page is there. So an answer that has
  all pages is believed only if a page far beyond the end, which nobody can have cached, is told to be absent.
- mincore takes a mapping, but a mapping that nobody touches has no page tables: a window of a gibibyte costs nothing.

Kernel:
    mm/filemap.c filemap_cachestat(), can_do_cachestat(); mm/mincore.c can_do_mincore(); cachestat(2), mincore(2).
"""

from __future__ import annotations

import ctypes
import errno
import os
from array import array
from ctypes import c_long, c_uint, c_void_p

from dontneed.abi.syscalls import CACHESTAT
from dontneed.kernel import libc
from dontneed.kernel.mappings import MAP_SHARED, PROT_NONE, map_memory, unmap_memory
from dontneed.units import GIB, HUGE_PAGE_BYTES, MIB, PAGE_BYTES, round_up

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    Run = tuple[int, int]

WINDOW_BYTES = GIB
_PRESENT, _ABSENT = b"\1", b"\0"
_LOWEST_BIT = bytes(number & 1 for number in range(256))
"""mincore defines this bit of each byte only."""
_NOWHERE = 4 * HUGE_PAGE_BYTES
"""Beyond the end of a file, and of the largest folio that may stick out over it."""


def _untyped(library: ctypes.CDLL) -> Any:
    """syscall(2) of a library, a function object that nobody else has."""
    function: Any = library.syscall
    function.restype = c_long
    return function


# Functions of their own, without the types of their arguments: to check these takes as long as a small file does.
_cachestat = _untyped(ctypes.CDLL(None, use_errno=True))
_cachestat_held = _untyped(ctypes.PyDLL(None, use_errno=True))
_SHORT_BYTES = 16 * MIB
"""Up to there it takes microseconds, and the GIL is kept: to let go of it and have it back takes a fifth of that."""


class PageCounter:
    """cachestat(2), with room for its arguments, which tens of thousands of calls share. Not for several threads.

    Attributes:
        words: struct cachestat_range (start and length), then struct cachestat: pages of the last file that are cached,
            dirty, under writeback, that were evicted, and were so recently.
        fill: `fill(fd, length)` counts in so many bytes, more than none, from the start of a file into `words`. Raises
            OSError: EPERM: the file is not ours, and we may not write to it; ENOSYS; EOPNOTSUPP: hugetlbfs.
    """

    __slots__ = ("fill", "words")

    def __init__(self) -> None:
        self.words = array("Q", bytes(8 * 7))
        self.fill: Callable[[int, int], None] = _filling(self.words)

    def count(self, fd: int, length: int, start: int = 0) -> list[int]:
        """What `fill` finds, five counts, of a part that begins at `start`.

        Raises:
            OSError: as `fill`.
        """
        self.words[0] = start
        try:
            self.fill(fd, length)
        finally:
            self.words[0] = 0
        return self.words.tolist()[2:]


def _filling(words: array[int]) -> Callable[[int, int], None]:
    """The system call on these words: a function with all that it needs around it, the fastest that Python has."""
    place, _ = words.buffer_info()
    # Made once: to make a C number of a Python one takes longer than the kernel does for a small file.
    number, struct_range, struct_answer, flags = c_long(CACHESTAT), c_void_p(place), c_void_p(place + 16), c_uint(0)

    def fill(fd: int, length: int) -> None:
        words[1] = length
        call = _cachestat_held if length < _SHORT_BYTES else _cachestat
        if call(number, fd, struct_range, struct_answer, flags):
            refusal = libc.last_errno()
            raise OSError(refusal, os.strerror(refusal), "cachestat")

    return fill


def try_counting() -> int:
    """Count the one page of a file of our own in memory.

    Raises:
        OSError: ENOSYS or EPERM: the kernel has no cachestat, or a filter is before it.
    """
    fd = os.memfd_create("dontneed")
    try:
        os.write(fd, b"page")
        return PageCounter().count(fd, PAGE_BYTES)[0]
    finally:
        os.close(fd)


def page_counter() -> PageCounter | None:
    """One that works here, or None: then mincore has to do."""
    try:
        try_counting()
    except OSError as refusal:
        if refusal.errno not in (errno.ENOSYS, errno.EPERM, errno.EACCES):
            raise
        return None
    return PageCounter()


def cached_runs(fd: int, size: int, counter: PageCounter | None = None) -> list[Run] | None:
    """Which pages of a file are cached: runs of first page and number of pages.

    Args:
        fd: the file.
        size: its length; what is truncated meanwhile is not cached.
        counter: spares mincore the windows of which all or nothing is cached; None where it is not to be trusted.
    Returns:
        None: the kernel does not tell us; we neither own the file nor may write to it.
    Raises:
        OSError: as mmap(2), mincore(2), cachestat(2).
    """
    told: list[Run] = []
    for start, length, whole in _windows(fd, size, counter):
        first, count = start // PAGE_BYTES, -(-length // PAGE_BYTES)
        if whole:
            told.append((first, count))
            continue
        residency = _residency(fd, start, length)
        if _ABSENT not in residency and not _may_know(fd, size):
            return None
        told += _runs_of(residency, first)
    return list(_joined(told))


def _windows(fd: int, size: int, counter: PageCounter | None) -> Iterator[tuple[int, int, bool]]:
    """Parts of a file in which something is cached, in order: start, length, and whether all of it is.

    Those that are known to be whole may be long. The others are windows, found by halves: a sparse file may be of
    eight exbibytes.
    """
    if counter is None:
        for start in range(0, size, WINDOW_BYTES):
            yield start, min(WINDOW_BYTES, size - start), False
        return
    waiting = [(0, size)]
    while waiting:
        start, length = waiting.pop()
        known = counter.count(fd, length, start)[0] if length else 0
        whole = known == -(-length // PAGE_BYTES)
        if known and (whole or length <= WINDOW_BYTES):
            yield start, length, whole
        elif known:
            half = round_up(length // 2, WINDOW_BYTES)
            waiting += [(start + half, length - half), (start, half)]


def _residency(fd: int, start: int, length: int) -> bytes:
    """A byte a page, 1 where it is cached."""
    answer = ctypes.create_string_buffer(-(-length // PAGE_BYTES))
    address = map_memory(length, protection=PROT_NONE, flags=MAP_SHARED, fd=fd, offset=start)
    try:
        libc.check(libc.mincore(address, length, answer), "mincore")
    finally:
        unmap_memory(address, length)
    return answer.raw.translate(_LOWEST_BIT)


def _may_know(fd: int, size: int) -> bool:
    """Whether mincore tells us the truth about this file."""
    try:
        return _residency(fd, round_up(size, HUGE_PAGE_BYTES) + _NOWHERE, PAGE_BYTES) == _ABSENT
    except OSError as refusal:
        if refusal.errno not in (errno.EOVERFLOW, errno.EINVAL):  # the longest file that there can be
            raise
        return False


def _runs_of(residency: bytes, first: int) -> Iterator[Run]:
    """The runs in a string of a byte a page, of which the first is that page of the file."""
    start = residency.find(_PRESENT)
    while start >= 0:
        end = residency.find(_ABSENT, start)
        end = len(residency) if end < 0 else end
        yield first + start, end - start
        start = residency.find(_PRESENT, end)


def _joined(runs: Iterable[Run]) -> Iterator[Run]:
    """Runs, in order; those that touch each other as one."""
    first = count = 0
    for start, pages in runs:
        if count and first + count == start:
            count += pages
            continue
        if count:
            yield first, count
        first, count = start, pages
    if count:
        yield first, count
