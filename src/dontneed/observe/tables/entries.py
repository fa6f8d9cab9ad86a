"""What arrays of page-table entries say, and where addresses stand among them."""

from __future__ import annotations

from dontneed.abi import page_entry as abi
from dontneed.units import HUGE_PAGE_BYTES, PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from dontneed.kernel.pagemap import Words

TABLE_PAGES = HUGE_PAGE_BYTES // PAGE_BYTES
"""That a last-level table maps."""


def frames_of(entries: Words) -> Words:
    """The frames of entries whose pages are there; where access is not allowed, they are inverted."""
    import numpy as np

    inverted = entries & np.uint64(abi.PRESENT) == 0
    plain = np.where(inverted, ~entries, entries)
    frames: Words = (plain & np.uint64(abi.FRAME_MASK)) >> np.uint64(abi.FRAME_SHIFT)
    return frames


def names_swap(entries: Words) -> Any:
    """Which entries that are not present name a slot of a swap file, and no marker, migration or the like."""
    import numpy as np

    return entries >> np.uint64(abi.KIND_SHIFT) < np.uint64(abi.LEAST_SWAP_KINDS)


def positions_of(addresses: Words, tables: Words) -> Any:
    """Where addresses are among the entries of last-level tables, counted through.

    Args:
        addresses: page-aligned; one between two tables is at the end of the first.
        tables: what the first entry of each maps, ascending.
    """
    import numpy as np

    nth = np.searchsorted(tables, addresses, "right") - 1
    offsets = addresses - tables[np.maximum(nth, 0)] >> np.uint64(PAGE_BYTES.bit_length() - 1)
    within = np.minimum(offsets, np.uint64(TABLE_PAGES)).astype(np.int64)
    return np.where(nth < 0, 0, nth * TABLE_PAGES + within)
