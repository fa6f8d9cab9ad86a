"""/proc/PID/pagemap: the bits of its 64-bit entries, and the numbers of its PAGEMAP_SCAN ioctl.

Kernel:
    Documentation/admin-guide/mm/pagemap.rst; include/uapi/linux/fs.h. PAGEMAP_SCAN since 6.7.
"""

from __future__ import annotations

ENTRY_BYTES = 8

PFN_MASK = (1 << 55) - 1
"""The frame of a present page; 0 without CAP_SYS_ADMIN (since 4.2), which means hidden, never frame 0."""
SOFT_DIRTY = 1 << 55
EXCLUSIVE = 1 << 56
"""Mapped by this process alone; since 4.2. For a part of a large folio: the whole folio is."""
UFFD_WP = 1 << 57
GUARD = 1 << 58
"""A guard marker; since 6.15, with SWAP set beside it."""
SIZE_MASK = 0x3F << 55
SIZE_4_KIB = 12 << 55
"""Until 4.2 every entry had the size of a page here, as a power of two, also where nothing is mapped; no newer entry
can look like these, for no guard marker is write-protected."""
FILE = 1 << 61
"""A page of a file or of shared memory; since 3.5."""
SWAP = 1 << 62
PRESENT = 1 << 63

PAGEMAP_SCAN = 0xC060_6610
"""_IOWR('f', 16, struct pm_scan_arg)."""
SCAN_ARG_BYTES = 96
"""struct pm_scan_arg: size flags start end walk_end vec vec_len max_pages category_inverted category_mask
category_anyof_mask return_mask, each 64 bits."""
SCAN_SIZE, SCAN_FLAGS, SCAN_START, SCAN_END, SCAN_WALK_END, SCAN_VEC, SCAN_VEC_LEN, SCAN_MAX_PAGES = range(8)
SCAN_INVERTED, SCAN_MASK, SCAN_ANYOF, SCAN_RETURN = range(8, 12)

SCAN_WRITE_PROTECT = 1 << 0
"""PM_SCAN_WP_MATCHING, a flag: write-protect what is found where an asynchronous userfaultfd watches, skip the rest."""

IS_WRITTEN = 1 << 1
"""Not write-protected by an asynchronous userfaultfd, or written to since."""
IS_FILE = 1 << 2
IS_PRESENT = 1 << 3
IS_SWAPPED = 1 << 4
"""Any entry that is neither none nor present: swap, migration, guard markers."""
IS_ZERO = 1 << 5
"""PAGE_IS_PFNZERO: the shared zero page, the huge one too."""
IS_HUGE = 1 << 6
"""Mapped by a PMD entry or a hugetlb page."""
IS_GUARD = 1 << 8
"""Since 6.15; older kernels refuse to be asked for it."""

PROCMAP_QUERY = 0xC068_6611
"""_IOWR('f', 17, struct procmap_query); since 6.11, on /proc/PID/maps."""
