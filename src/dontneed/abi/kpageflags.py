"""/proc/kpageflags: what the kernel says of a frame, one bit each.

Kernel:
    include/uapi/linux/kernel-page-flags.h; Documentation/admin-guide/mm/pagemap.rst. Since 2.6.25; ZERO_PAGE 4.0.
"""

from __future__ import annotations

LOCKED = 1 << 0
REFERENCED = 1 << 2
UPTODATE = 1 << 3
DIRTY = 1 << 4
LRU = 1 << 5
BUDDY = 1 << 10
"""Free, in the buddy allocator; only the first frame of a free block is marked."""
MMAP = 1 << 11
"""Mapped by some process."""
ANON = 1 << 12
SWAPCACHE = 1 << 13
SWAPBACKED = 1 << 14
COMPOUND_HEAD = 1 << 15
COMPOUND_TAIL = 1 << 16
HUGE = 1 << 17
"""hugetlb."""
NOPAGE = 1 << 20
KSM = 1 << 21
THP = 1 << 22
ZERO_PAGE = 1 << 24
PGTABLE = 1 << 26
"""Since 4.18."""
