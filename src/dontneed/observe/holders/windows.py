"""What one process holds, by its page map: read in windows so small that it hardly waits, and without numpy.

The page map says of each page whether its frame is mapped once, by the kernel's own rule for Private_Clean and
Private_Dirty; of the others, mostly few, kpagecount says how often. Pages that are no memory, as the zero page and
those that are mapped by number, count as mapped never, and are left out so.

Kernel:
    fs/proc/task_mmu.c pagemap_pmd_range(), fs/proc/page.c; frame numbers for CAP_SYS_ADMIN, kpagecount for root.
"""

from __future__ import annotations

import os
import sys
from array import array
from collections import Counter
from time import perf_counter_ns

from dontneed.abi import pagemap as abi
from dontneed.errors import KernelLacks, NotPermitted, ProcessGone
from dontneed.kernel.kpage import read_map_counts_of
from dontneed.kernel.maps import read_maps
from dontneed.kernel.pagemap import Courtesy, scan_pages
from dontneed.observe.holders.roll import Amounts
from dontneed.observe.residency import walked_ranges
from dontneed.units import PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from dontneed.kernel.procfs import ProcessDirectory
    from dontneed.kernel.status import Counters

_PSS_SHIFT = 12
_WHOLE = PAGE_BYTES << _PSS_SHIFT
_MOST_SHARED = 1 << 16
"""Pages, 256 MiB: of more, page tables say faster who shares them."""
_ALONE, _SHARED = 1, 2
_HIGHEST_BYTE = 56
_HIGHEST_PLACE = abi.ENTRY_BYTES - 1 if sys.byteorder == "little" else 0
_PRESENT, _EXCLUSIVE = abi.PRESENT >> _HIGHEST_BYTE, abi.EXCLUSIVE >> _HIGHEST_BYTE
_KINDS = bytes(0 if not byte & _PRESENT else _ALONE if byte & _EXCLUSIVE else _SHARED for byte in range(256))
"""By the highest byte of an entry: what of a page; 0 of all that is not there."""


def read_by_windows(process: ProcessDirectory, counters: Counters) -> Amounts:
    """RSS, USS, PSS and swap of a process.

    Args:
        process: held by its directory.
        counters: what its status says.
    Raises:
        NotPermitted, KernelLacks: there is no such page map, or no counts; or it shares too much, or has hugetlb pages,
            which the page map does not tell from others.
        ProcessGone: it has ended.
    """
    if counters.hugetlb_bytes:
        raise KernelLacks("the page map does not tell hugetlb pages from others")
    alone, shared = _read_page_map(process)
    times = read_map_counts_of(sorted(set(shared)))
    resident = alone
    pss = alone * _WHOLE
    for frame, here in Counter(shared).items():
        if count := times[frame]:
            resident += here
            pss += _WHOLE // count * here
    return Amounts(
        rss_bytes=resident * PAGE_BYTES,
        swap_bytes=counters.swap_bytes,
        uss_bytes=alone * PAGE_BYTES,
        pss_bytes=pss >> _PSS_SHIFT,
    )


def _read_page_map(process: ProcessDirectory) -> tuple[int, list[int]]:
    """How many pages nobody else maps, and the frames of the others."""
    alone, shared = 0, []
    fd = process.open("pagemap")
    try:
        for data in _windows(fd, process):
            kinds = data[_HIGHEST_PLACE :: abi.ENTRY_BYTES].translate(_KINDS)
            alone += kinds.count(_ALONE)
            if _SHARED in kinds:
                entries = array("Q", data)
                shared += [entry & abi.PFN_MASK for entry, kind in zip(entries, kinds, strict=True) if kind == _SHARED]
                if len(shared) > _MOST_SHARED:
                    raise KernelLacks("the process shares too many pages to ask for each how often it is mapped")
    finally:
        os.close(fd)
    if shared and not any(shared):
        raise NotPermitted("frame numbers are hidden from this user", hint="run as root (sudo)")
    return alone, shared


def _windows(fd: int, process: ProcessDirectory) -> Iterator[bytes]:
    """The entries of all pages that are there, in windows that grow while nobody wants the lock that they take."""
    courtesy = Courtesy()
    for start, end in _present(fd, process):
        page = start
        while page < end:
            upto = min(end, page + courtesy.window_pages)
            size = (upto - page) * abi.ENTRY_BYTES
            began = perf_counter_ns()
            data = os.pread(fd, size, page * abi.ENTRY_BYTES)
            courtesy.after_window(perf_counter_ns() - began)
            if len(data) < size:
                msg = "the process gave up its memory while its page map was read"
                raise ProcessGone(msg)
            yield data
            page = upto


def _present(fd: int, process: ProcessDirectory) -> Iterator[tuple[int, int]]:
    """Runs of pages that are there, by their numbers, without those that are the zero page only."""
    for first, last in walked_ranges(read_maps(process)):
        for window in scan_pages(fd, first, last, wanted=abi.IS_PRESENT, returned=abi.IS_PRESENT | abi.IS_ZERO):
            runs = iter(window)
            for start, end, categories in zip(runs, runs, runs, strict=True):
                if not categories & abi.IS_ZERO:
                    yield start // PAGE_BYTES, end // PAGE_BYTES
