"""How many pages of each mapping are present, accessed, dirty, huge, zero, swapped: counted from page-table entries.

Most last-level tables are full, with entries alike but for their frames: the AND and the OR of a table tell, and only
tables of other kinds, or with a mapping's edge in them, are counted entry by entry.
"""

from __future__ import annotations

from dontneed.abi import page_entry as abi
from dontneed.observe.tables.branches import LastTables, UpperTable
from dontneed.observe.tables.entries import TABLE_PAGES, frames_of, names_swap, positions_of
from dontneed.observe.tables.huge_zero import HugeZeroPage
from dontneed.units import HUGE_PAGE_BYTES, PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from dontneed.kernel.maps import MapsTable
    from dontneed.kernel.pagemap import Words

_QUARTERS = 48
"""Bits below the highest quarter of an entry."""
_KIND_SHIFT = abi.KIND_SHIFT - _QUARTERS
_WRITTEN = abi.PRESENT | abi.DIRTY
_ANY_DIRTY = abi.DIRTY | abi.SAVED_DIRTY

COUNTED = ("rss", "accessed", "dirty", "huge", "zero", "special", "swapped")


class TableCounts:
    """Bytes per mapping, by row of a `MapsTable`: int64 arrays.

    Attributes:
        rss: present, and of a frame that counts: no zero page, no page that is mapped by number. With hugetlb pages.
        accessed: of these, the processor has used the entry since the kernel last cleared that bit.
        dirty: of these, written to through this entry.
        huge: of these, mapped by an entry of an upper table.
        zero: the shared zero page, the huge one too: present, and no memory.
        special: mapped by number (vvar, device memory): present, and outside RSS.
        swapped: in swap. Shared memory that is swapped out cannot be seen here.
        unmatched_bytes: present in no mapping of the table: mapped after it was read.
        unsettled_bytes: addresses whose tables changed each time they were read; they are in no count.
    """

    __slots__ = (*COUNTED, "unmatched_bytes", "unsettled_bytes", "_ends", "_huge_zero", "_starts", "_zero_frame")

    rss: Any
    accessed: Any
    dirty: Any
    huge: Any
    zero: Any
    special: Any
    swapped: Any

    def __init__(self, table: MapsTable, zero_frame: int) -> None:
        import numpy as np

        self._starts, self._ends = table.bounds
        self._zero_frame = zero_frame
        self._huge_zero = HugeZeroPage()
        self.unmatched_bytes = 0
        self.unsettled_bytes = 0
        for name in COUNTED:
            setattr(self, name, np.zeros(len(self._starts), np.int64))

    @property
    def notes(self) -> list[str]:
        """What could not be told apart, in sentences."""
        return self._huge_zero.notes

    @property
    def present(self) -> Any:
        """All that a touch finds without a fault: RSS, zero pages and special ones."""
        return self.rss + self.zero + self.special

    def add(self, branch: LastTables | UpperTable) -> None:
        """Count what a `BranchReader` read together."""
        import numpy as np

        if isinstance(branch, LastTables):
            addresses = np.array(branch.addresses, np.uint64)
            self._add_last(addresses, np.frombuffer(branch.pages, np.uint64).reshape(-1, TABLE_PAGES))
            return
        entries = np.frombuffer(branch.page, np.uint64)
        places = np.flatnonzero(
            (entries != 0) & (entries & np.uint64(abi.PRESENT | abi.HUGE) != np.uint64(abi.PRESENT))
        )
        addresses = np.uint64(branch.address) + places.astype(np.uint64) * np.uint64(branch.entry_bytes)
        self._add_upper(branch.entry_bytes, addresses, entries[places])

    # Last-level tables

    def _add_last(self, addresses: Words, entries: Words) -> None:
        import numpy as np

        low = _lowest_quarters(entries)
        if self._add_written(addresses, low):
            return
        all_have, some_have = _and_or(low)
        rows, inside = self._rows(addresses, HUGE_PAGE_BYTES)
        full = inside & (all_have & np.uint16(abi.PRESENT) != 0) & (some_have & np.uint16(abi.SPECIAL) == 0)
        full &= (all_have ^ some_have) & np.uint16(abi.DIRTY) == 0
        clean = full & (some_have & np.uint16(abi.DIRTY) == 0)
        if clean.any():  # which may have been dirty, and still say so in the highest quarter
            highest = _and_or(entries[clean].view(np.uint16)[:, 3::4])
            full[clean] = highest[1] & np.uint16(abi.SAVED_DIRTY >> _QUARTERS) == 0
        self._add_bytes("rss", rows[full], HUGE_PAGE_BYTES)
        self._add_bytes("dirty", rows[full & ~clean], HUGE_PAGE_BYTES)
        self._add_accessed(rows, low, full, all_have, some_have)
        others = ~full
        bare = others & (some_have == 0)
        others[bare] = entries[bare].any(axis=1)
        whole, cut = others & inside, others & ~inside
        if whole.any():
            self._add_whole(rows[whole], entries[whole])
        if cut.any():
            self._add_each(addresses[cut], entries[cut])

    def _add_written(self, addresses: Words, low: Any) -> bool:
        """Count tables that lie in one mapping and are full of pages that were written to: most of most memory."""
        import numpy as np

        row = int(np.searchsorted(self._ends, addresses[0], "right"))
        behind = int(addresses[-1]) + HUGE_PAGE_BYTES
        if row == len(self._ends) or addresses[0] < self._starts[row] or behind > self._ends[row]:
            return False
        all_have, some_have = _and_or(low.ravel(), axis=0)
        if all_have & _WRITTEN != _WRITTEN or some_have & abi.SPECIAL:
            return False
        self.rss[row] += low.size * PAGE_BYTES
        self.dirty[row] += low.size * PAGE_BYTES
        accessed = low.size if all_have & abi.ACCESSED else np.count_nonzero(low & np.uint16(abi.ACCESSED))
        self.accessed[row] += int(accessed) * PAGE_BYTES
        return True

    def _add_accessed(self, rows: Any, low: Any, full: Any, all_have: Any, some_have: Any) -> None:
        """Which pages of full tables were accessed: mostly all or none, if nobody clears that bit (DAMON does)."""
        import numpy as np

        accessed = np.uint16(abi.ACCESSED)
        self._add_bytes("accessed", rows[full & (all_have & accessed != 0)], HUGE_PAGE_BYTES)
        mixed = full & ((all_have ^ some_have) & accessed != 0)
        if mixed.any():
            self._add_counts("accessed", rows[mixed], _counts_by_table(low[mixed] & accessed != 0))

    def _add_whole(self, rows: Any, entries: Words) -> None:
        """Tables that lie in one mapping each."""
        for name, mask in self._masks(entries).items():
            self._add_counts(name, rows, _counts_by_table(mask))

    def _add_each(self, addresses: Words, entries: Words) -> None:
        """Tables with an edge in them, by mapping."""
        import numpy as np

        low = int(np.searchsorted(self._ends, addresses[0], "right"))
        high = int(np.searchsorted(self._starts, addresses[-1] + np.uint64(HUGE_PAGE_BYTES), "left"))
        first = positions_of(self._starts[low:high], addresses)
        last = positions_of(self._ends[low:high], addresses)
        for name, mask in self._masks(entries).items():
            running = np.zeros(mask.size + 1, np.int32)
            np.cumsum(mask.ravel(), dtype=np.int32, out=running[1:])
            counts = (running[last] - running[first]).astype(np.int64) * PAGE_BYTES
            getattr(self, name)[low:high] += counts
            if name in ("rss", "zero", "special"):
                self.unmatched_bytes += int(running[-1]) * PAGE_BYTES - int(counts.sum())

    def _masks(self, entries: Words) -> dict[str, Any]:
        """Which entries are of each sort; sorts that there are none of are left out.

        The lowest and the highest quarter of each have all the flags, and take a quarter of the time.
        """
        import numpy as np

        low, high = _lowest_quarters(entries), np.ascontiguousarray(entries.view(np.uint16)[:, 3::4])
        is_present = low & np.uint16(abi.PRESENT | abi.PROT_NONE) != 0
        special = low & np.uint16(abi.SPECIAL) != 0
        special &= is_present
        masks = {}
        rss = is_present
        if special.any():
            rss = is_present & ~special
            masks["zero"] = special & (frames_of(entries) == np.uint64(self._zero_frame))
            masks["special"] = special & ~masks["zero"]
        if not is_present.all():
            masks["swapped"] = ~is_present & (high < np.uint16(abi.LEAST_SWAP_KINDS << _KIND_SHIFT)) & (entries != 0)
        masks["rss"] = rss
        masks["accessed"] = rss & (low & np.uint16(abi.ACCESSED) != 0)
        dirty = low & np.uint16(abi.DIRTY) | high & np.uint16(abi.SAVED_DIRTY >> _QUARTERS)
        masks["dirty"] = rss & (dirty != 0)
        return {name: mask for name, mask in masks.items() if mask.any()}

    # Upper tables

    def _add_upper(self, size: int, addresses: Words, entries: Words) -> None:
        import numpy as np

        mappings, inside = self._rows(addresses, size)
        present = entries & np.uint64(abi.PRESENT | abi.PROT_NONE | abi.HUGE) != 0
        self.unmatched_bytes += int(np.count_nonzero(present & ~inside)) * size
        swapped = ~present & names_swap(entries) & inside
        self._add_bytes("swapped", mappings[swapped], size)
        present &= inside
        zero = present & self._huge_zero.among(entries, present)
        self._add_bytes("zero", mappings[zero], size)
        special = present & ~zero & (entries & np.uint64(abi.SPECIAL) != 0)
        self._add_bytes("special", mappings[special], size)
        rss = present & ~zero & ~special
        for name, bits in (("rss", 0), ("huge", 0), ("accessed", abi.ACCESSED), ("dirty", _ANY_DIRTY)):
            chosen = rss & (entries & np.uint64(bits) != 0) if bits else rss
            self._add_bytes(name, mappings[chosen], size)

    # Mappings

    def _rows(self, addresses: Words, size: int) -> tuple[Any, Any]:
        """The mapping that each stretch of `size` bytes begins in, and whether it lies there wholly."""
        import numpy as np

        rows = np.searchsorted(self._ends, addresses, "right")
        known = rows < len(self._ends)
        rows = np.where(known, rows, 0)
        if not len(self._ends):
            return rows, known
        ends = addresses + np.uint64(size)
        return rows, known & (self._starts[rows] <= addresses) & (self._ends[rows] >= ends)

    def _add_bytes(self, name: str, rows: Any, size: int) -> None:
        import numpy as np

        if len(rows):
            getattr(self, name)[:] += np.bincount(rows, minlength=len(self._starts)) * size

    def _add_counts(self, name: str, rows: Any, pages: Any) -> None:
        import numpy as np

        counts = np.bincount(rows, pages, minlength=len(self._starts))
        getattr(self, name)[:] += counts.astype(np.int64) * PAGE_BYTES


def _lowest_quarters(entries: Words) -> Any:
    """The lowest 16 bits of all entries, side by side: nearly all flags, and a quarter to look through."""
    import numpy as np

    return entries.astype(np.uint16)


def _and_or(quarters: Any, axis: int = 1) -> tuple[Any, Any]:
    """What all entries have in common, and what any of them has: of each table, or along another axis."""
    import numpy as np

    bitwise_and: Any = np.bitwise_and  # the stubs of numpy's versions disagree about `reduce`
    bitwise_or: Any = np.bitwise_or
    return bitwise_and.reduce(quarters, axis=axis), bitwise_or.reduce(quarters, axis=axis)


def _counts_by_table(mask: Any) -> Any:
    """How many of the 512 entries of each table are marked: eight at a time, as bytes of a word."""
    import numpy as np

    words = mask.view(np.uint64).reshape(len(mask), -1).sum(axis=1, dtype=np.uint64)
    return words.view(np.uint8).reshape(-1, 8).sum(axis=1, dtype=np.int64)
