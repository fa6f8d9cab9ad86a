"""What the page tables of a process say of its use of memory, when they are read again and again, and never changed.

The processor marks an entry when it uses it (accessed), and when it writes through it (dirty). Nobody clears these
marks but the kernel, now and then; so a mark that is there says nothing of when. Two bounds can be told all the same:

- Touched for certain, at least: the mark came between two readings; or a page came, and was written to or came from
  swap. A page that came clean is no proof: the kernel maps the neighbours of a page of a file at the same fault. One
  whose frame was elsewhere in the process before is none either: mremap moves entries with their marks. Nor is what
  became part of a huge page: the kernel puts those together without a touch, and marks them.
- Touched perhaps, at most: the mark was there at some reading.

Of a huge page all is touched or nothing.

    changes = TableChanges()
    changes.begin(); changes.add(tables) …; changes.end()      a reading, then another, …
    changes.by_mapping(starts, ends)                           bytes
"""

from __future__ import annotations

from dontneed.abi import page_entry as abi
from dontneed.observe.tables.entries import TABLE_PAGES, frames_of, names_swap, positions_of
from dontneed.observe.tables.huge_zero import HugeZeroPage
from dontneed.records import Record
from dontneed.units import HUGE_PAGE_BYTES, PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from dontneed.kernel.pagemap import Words
    from dontneed.observe.tables.reader import Tables

_PRESENT, _ACCESSED, _DIRTY, _SWAPPED, _HUGE = (1 << bit for bit in range(5))
"""What is kept of an entry from one reading to the next."""
_TOUCHED, _WRITTEN, _MARKED = (1 << bit for bit in range(3))
"""What is found out of a page over all readings."""
_AT_A_TIME = 4096
"""Tables; sums over more would take more memory than is worth it."""


class UseCounts(Record):
    """Bytes by mapping, as lists; zero pages are no memory, and in none of them.

    Attributes:
        touched, written: at least.
        marked: touched at most, but for what was unmapped between two readings.
        gone_bytes: touched for certain, and in none of the mappings.
    """

    touched: list[int]
    written: list[int]
    marked: list[int]
    gone_bytes: int


class TableChanges:
    """Follows the page tables of one process from reading to reading.

    Args:
        cleared: the accessed marks are cleared right after the first reading, whose own therefore count for nothing.
    """

    def __init__(self, *, cleared: bool = False) -> None:
        import numpy as np

        self._huge_zero = HugeZeroPage()
        self._cleared = cleared
        self._readings = 0
        self._addresses = np.zeros(0, np.uint64)
        self._states = np.zeros((0, TABLE_PAGES), np.uint8)
        self._frames = np.zeros((0, TABLE_PAGES), np.uint32)
        self._found = np.zeros((0, TABLE_PAGES), np.uint8)
        self._parts: list[tuple[Words, Any, Any]] = []
        self._unsettled: list[tuple[int, int]] = []

    @property
    def notes(self) -> list[str]:
        """What could not be told apart, in sentences."""
        return self._huge_zero.notes

    # A reading

    def begin(self) -> None:
        """Begin a reading."""
        self._parts = []

    def add(self, tables: Tables) -> None:
        """Tables of this reading, as a `TableReader` gives them."""
        import numpy as np

        if not tables.level:
            states, frames = self._small(tables.entries)
            self._parts.append((tables.addresses.copy(), states, frames))
            return
        rows, columns = tables.entries.nonzero()
        if not len(rows):
            return
        entries = tables.entries[rows, columns]
        addresses = tables.addresses[rows] + columns.astype(np.uint64) * np.uint64(tables.page_bytes)
        states = self._huge(entries)
        kept = states != 0
        addresses, states, first = addresses[kept], states[kept], frames_of(entries[kept])
        repeats = tables.page_bytes // HUGE_PAGE_BYTES
        inside = np.arange(repeats, dtype=np.uint64)
        addresses = (addresses[:, None] + inside * np.uint64(HUGE_PAGE_BYTES)).ravel()
        first = (first[:, None] + inside * np.uint64(TABLE_PAGES)).ravel()
        frames = (first[:, None] + np.arange(TABLE_PAGES, dtype=np.uint64)).astype(np.uint32)
        whole = np.repeat(np.repeat(states, repeats)[:, None], TABLE_PAGES, axis=1)
        self._parts.append((addresses, whole, frames))

    def end(self, unsettled: Iterable[tuple[int, int]] = ()) -> None:
        """End a reading: compare it with the one before.

        Args:
            unsettled: starts and ends of addresses of which nothing was read; what they hold is no news the next time.
        """
        import numpy as np

        unsettled = list(unsettled)
        states, frames = self._gathered()
        if self._readings:
            proofs = _proofs(self._states, states, self._frames, frames)
            ends = self._addresses + np.uint64(HUGE_PAGE_BYTES)
            for start, end in (*self._unsettled, *unsettled):
                proofs[(self._addresses < np.uint64(end)) & (ends > np.uint64(start))] = 0
            self._found |= proofs
        self._unsettled = unsettled
        if self._readings or not self._cleared:
            marked = states & np.uint8(_PRESENT | _ACCESSED) == np.uint8(_PRESENT | _ACCESSED)
            self._found |= marked.astype(np.uint8) * np.uint8(_MARKED)
        elif self._cleared:
            states &= np.uint8(~_ACCESSED & 0xFF)
        self._states, self._frames = states, frames
        self._readings += 1

    def _gathered(self) -> tuple[Any, Any]:
        """The states and frames of this reading, in the order of all tables that were ever seen."""
        import numpy as np

        parts, self._parts = self._parts, []
        known = self._addresses
        every = np.unique(np.concatenate([known, *(addresses for addresses, _, _ in parts)]))
        if len(every) > len(known):
            places = np.searchsorted(every, known)
            for name in ("_states", "_frames", "_found"):
                old = getattr(self, name)
                new = np.zeros((len(every), TABLE_PAGES), old.dtype)
                new[places] = old
                setattr(self, name, new)
            self._addresses = every
        states = np.zeros((len(every), TABLE_PAGES), np.uint8)
        frames = np.zeros((len(every), TABLE_PAGES), np.uint32)
        for addresses, its_states, its_frames in parts:
            places = np.searchsorted(every, addresses)
            states[places], frames[places] = its_states, its_frames
        return states, frames

    # Entries

    def _small(self, entries: Words) -> tuple[Any, Any]:
        """States and frames of the entries of last-level tables."""
        import numpy as np

        present = entries & np.uint64(abi.PRESENT | abi.PROT_NONE) != 0
        frames = frames_of(entries)
        counts = present & (entries & np.uint64(abi.SPECIAL) == 0)  # the zero page is special, and device memory
        states = counts.astype(np.uint8) * np.uint8(_PRESENT)
        states |= (counts & (entries & np.uint64(abi.ACCESSED) != 0)).astype(np.uint8) * np.uint8(_ACCESSED)
        dirty = entries & np.uint64(abi.DIRTY | abi.SAVED_DIRTY) != 0
        states |= (counts & dirty).astype(np.uint8) * np.uint8(_DIRTY)
        swapped = ~present & (entries != 0) & names_swap(entries)
        states |= swapped.astype(np.uint8) * np.uint8(_SWAPPED)
        return states, frames.astype(np.uint32)

    def _huge(self, entries: Words) -> Any:
        """States of the entries of upper tables."""
        import numpy as np

        present = entries & np.uint64(abi.PRESENT | abi.PROT_NONE | abi.HUGE) != 0
        counts = present & ~self._huge_zero.among(entries, present)
        states = counts.astype(np.uint8) * np.uint8(_PRESENT | _HUGE)
        states |= (counts & (entries & np.uint64(abi.ACCESSED) != 0)).astype(np.uint8) * np.uint8(_ACCESSED)
        dirty = entries & np.uint64(abi.DIRTY | abi.SAVED_DIRTY) != 0
        states |= (counts & dirty).astype(np.uint8) * np.uint8(_DIRTY)
        states |= (~present & names_swap(entries)).astype(np.uint8) * np.uint8(_SWAPPED)
        return states

    # Sums

    def by_mapping(self, starts: Sequence[int], ends: Sequence[int]) -> UseCounts:
        """What was found, by mapping; in the order of addresses."""
        import numpy as np

        bounds = np.array(starts, np.uint64), np.array(ends, np.uint64)
        touched, gone_bytes = self._bytes_between(*bounds, _TOUCHED)
        written, _ = self._bytes_between(*bounds, _WRITTEN)
        marked, _ = self._bytes_between(*bounds, _MARKED | _TOUCHED)
        return UseCounts(touched, written, marked, gone_bytes)

    def _bytes_between(self, starts: Words, ends: Words, bits: int) -> tuple[list[int], int]:
        """Bytes of the pages that bear one of these bits between each start and end; and of those that do elsewhere."""
        import numpy as np

        counts = np.zeros(len(starts), np.int64)
        total = 0
        for first in range(0, len(self._addresses), _AT_A_TIME):
            addresses = self._addresses[first : first + _AT_A_TIME]
            running = np.zeros(len(addresses) * TABLE_PAGES + 1, np.int64)
            np.cumsum(self._found[first : first + _AT_A_TIME] & np.uint8(bits) != 0, out=running[1:])
            total += int(running[-1])
            counts += running[positions_of(ends, addresses)] - running[positions_of(starts, addresses)]
        return (counts * PAGE_BYTES).tolist(), (total - int(counts.sum())) * PAGE_BYTES


def _proofs(before: Any, now: Any, frames_before: Any, frames: Any) -> Any:
    """Which pages were touched between two readings for certain, and which were written to."""
    import numpy as np

    was, here = before & np.uint8(_PRESENT) != 0, now & np.uint8(_PRESENT) != 0
    came = now & ~before
    marked = was & here & (came & np.uint8(_ACCESSED) != 0)
    written = was & here & (came & np.uint8(_DIRTY) != 0)
    dirty = now & np.uint8(_DIRTY) != 0
    fetched = (before & np.uint8(_SWAPPED) != 0) & (now & np.uint8(_ACCESSED) != 0)  # swapoff fetches pages unmarked
    new = here & ~was & (dirty | fetched)  # written to is used, though somebody may have cleared that mark
    written |= new & dirty
    touched = marked | written | new
    collapsed = ((came & np.uint8(_HUGE) != 0) & (now & np.uint8(_HUGE) != 0)).any(axis=1) & before.any(axis=1)
    touched[collapsed] = False
    moved = touched & ~(was & (frames == frames_before))
    if moved.any():
        moved[moved] = np.isin(frames[moved], frames_before[was])
        touched &= ~moved
    written &= touched
    return touched.astype(np.uint8) * np.uint8(_TOUCHED) | written.astype(np.uint8) * np.uint8(_WRITTEN)
