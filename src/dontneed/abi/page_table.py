"""Page tables: how much one maps, and which kernels give a table back once a discard has emptied it.

A last-level table is a page of entries and maps a *slot*, 2 MiB where a page is 4 KiB. Until 6.13 a table once made
stayed until its addresses were unmapped: a discard freed frames and never tables.

Kernel:
    mm/pt_reclaim.c, called from zap_pte_range(); CONFIG_PT_RECLAIM since 6.14, on by default, x86-64 only until 6.19.
    From 7.0 on it comes with MMU_GATHER_RCU_TABLE_FREE, on any architecture whose kernel has that.
"""

from __future__ import annotations

from dontneed.units import HUGE_PAGE_BYTES, PAGE_BYTES, round_down, round_up

TABLE_BYTES = PAGE_BYTES
"""What a table occupies."""

SLOT_BYTES = HUGE_PAGE_BYTES
"""What a last-level table maps, aligned to itself."""

_SINCE_X86_64 = (6, 14)
_SINCE_OTHERS = (7, 0)


def whole_slots(start: int, end: int) -> int:
    """How many whole slots lie in `[start, end)`: so many last-level tables serve these addresses and no others."""
    return max(0, round_down(end, SLOT_BYTES) - round_up(start, SLOT_BYTES)) // SLOT_BYTES


def frees_emptied_tables(version: tuple[int, int], architecture: str, *, pt_reclaim: bool | None) -> bool | None:
    """Whether MADV_DONTNEED of a whole slot frees the table that maps it.

    Args:
        version: of the kernel, as (6, 14).
        architecture: as uname -m says it.
        pt_reclaim: what the kernel's build configuration says of PT_RECLAIM; it decides, since distributions take
            patches back and leave options out. None: the configuration is not to be seen.
    Returns:
        None where neither the configuration nor the version tells.
    """
    if pt_reclaim is not None:
        return pt_reclaim
    if architecture == "x86_64":
        return version >= _SINCE_X86_64
    return False if version < _SINCE_OTHERS else None
