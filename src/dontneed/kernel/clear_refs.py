"""/proc/PID/clear_refs: forget which pages of a process were used. It changes what it looks at; never by default.

Writing 1 clears the accessed bit of every page-table entry, and the Referenced flag of the frames behind them, but for
hugetlb. Reclaim goes by the same marks: for a while all pages of the process look idle, and so do those that others
share with it. Nothing is lost by that.

# The processor does not notice

A translation that the processor holds already is used without looking at the entry, and its accessed bit stays clear:
a set of pages so small and hot that it stays in the TLB looks idle. The kernel does not flush here. Measured on 6.18:
of 64 pages read in a loop, some were missed after 0.12 s in 11 of 15 rounds, and 16 seen in the median; of 500 in 12,
and 71 seen.

Writing 4 clears soft-dirty bits, and flushes. In a kernel that was built without soft-dirty bits it does nothing else:
so there it follows, and all but a page or two are seen. In a kernel that has them somebody may rely on them (CRIU
does), so there it is not done, and that is told. The page or two may be those that reclaim or DAMON looked at.

Kernel:
    fs/proc/task_mmu.c clear_refs_write(); proc(5). Since 2.6.22; soft-dirty since 3.11. The file belongs to the owner
    of the process. Meanwhile mmap_lock is held: for reading, some 6 ms a GiB of small pages; for 4 for writing, 0.3 ms.
"""

from __future__ import annotations

import errno
import os
import sys

from dontneed.abi.pagemap import ENTRY_BYTES, SOFT_DIRTY
from dontneed.errors import KernelLacks
from dontneed.kernel.probes import Scratch
from dontneed.units import PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.kernel.procfs import ProcessDirectory

_ALL_PAGES = b"1"
_SOFT_DIRTY_BITS = b"4"


def clear_accessed(process: ProcessDirectory) -> bool:
    """Clear the accessed bits of a process.

    Returns:
        Whether the processors' translations were flushed too, so that hot pages will be seen.
    Raises:
        ProcessGone, NotPermitted, KernelLacks: as `ProcessDirectory.open`.
    """
    only_flushes = not has_soft_dirty()
    process.write("clear_refs", _ALL_PAGES)
    if not only_flushes:
        return False
    try:
        process.write("clear_refs", _SOFT_DIRTY_BITS)
    except OSError as refusal:
        if refusal.errno != errno.EINVAL:
            raise
        return False  # a kernel that does not know the number without the bits
    return True


def has_soft_dirty() -> bool:
    """Whether this kernel keeps soft-dirty bits, as a page that was just touched tells, or may keep them.

    Raises:
        KernelLacks: there is no page map to tell.
    """
    import ctypes

    with Scratch() as page:
        ctypes.memset(page, 1, 1)
        try:
            fd = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        except PermissionError:  # our user changed: not even our own can be read, and it may be
            return True
        except FileNotFoundError:
            raise KernelLacks("there is no /proc/self/pagemap", hint="is /proc mounted?") from None
        try:
            entry = os.pread(fd, ENTRY_BYTES, page // PAGE_BYTES * ENTRY_BYTES)
        finally:
            os.close(fd)
    return bool(int.from_bytes(entry, sys.byteorder) & SOFT_DIRTY)
