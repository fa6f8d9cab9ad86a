"""What `counts` counts, without numpy: for a command that would spend most of its time importing it.

Entries are taken apart bytewise: every eighth byte of a table, beginning with the first, is the lowest of all its
entries. Three such slices, translated and laid over each other, give one byte an entry that says what it is.
"""

from __future__ import annotations

from bisect import bisect_right

from dontneed.abi import page_entry as abi
from dontneed.kernel.kernel_memory import FEW_PAGES
from dontneed.observe.tables.branches import LastTables, UpperTable, leads_to_table
from dontneed.observe.tables.huge_zero import HugeZeroPage
from dontneed.units import HUGE_PAGE_BYTES, PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.kernel.maps import MapsTable

_ENTRY_BYTES = 8
_ANY_DIRTY = abi.DIRTY | abi.SAVED_DIRTY
_SHORT = 4
"""Stretches up to so many entries are counted once for all alike: of long ones hardly two are."""

_RSS, _ACCESSED, _DIRTY, _SPECIAL, _SWAPPED = (1 << bit for bit in range(5))
"""What a byte of a class says of its entry."""
_HERE, _HIDDEN, _USED, _WRITTEN, _APART, _WRITTEN_BEFORE, _NAMES_SWAP = (1 << bit for bit in range(7))
"""What bytes of an entry say, laid over each other."""


def _flags(bits: dict[int, int], shift: int) -> bytes:
    """For every value of the byte of an entry at `shift` the flags of ours that its bits stand for."""
    return bytes(sum(flag for bit, flag in bits.items() if value << shift & bit) for value in range(1 << _ENTRY_BYTES))


_LOWEST = _flags({abi.PRESENT: _HERE, abi.ACCESSED: _USED, abi.DIRTY: _WRITTEN}, 0)
_SECOND = _flags({abi.PROT_NONE: _HIDDEN, abi.SPECIAL: _APART}, 8)
_HIGHEST = bytes(
    flags | (_NAMES_SWAP if value and value << 56 >> abi.KIND_SHIFT < abi.LEAST_SWAP_KINDS else 0)
    for value, flags in enumerate(_flags({abi.SAVED_DIRTY: _WRITTEN_BEFORE}, 56))
)
"""An entry that names a slot has the offset inverted, so its highest byte is never 0."""


def _class_of(flags: int) -> int:
    if not flags & (_HERE | _HIDDEN):
        return _SWAPPED if flags & _NAMES_SWAP else 0
    if flags & _APART:
        return _SPECIAL
    dirty = flags & (_WRITTEN | _WRITTEN_BEFORE)
    return _RSS | (_ACCESSED if flags & _USED else 0) | (_DIRTY if dirty else 0)


_CLASSES = bytes(_class_of(flags) for flags in range(1 << 8))


class PlainCounts:
    """Bytes per mapping, by row of a `MapsTable`: lists. The attributes are those of `counts.TableCounts`."""

    __slots__ = (
        "_ends",
        "_huge_zero",
        "_known",
        "_starts",
        "_zero_frame",
        "accessed",
        "dirty",
        "huge",
        "rss",
        "special",
        "swapped",
        "unmatched_bytes",
        "unsettled_bytes",
        "zero",
    )

    def __init__(self, table: MapsTable, zero_frame: int) -> None:
        self._starts, self._ends = table.starts, table.ends
        self._zero_frame = zero_frame
        self._known: dict[bytes, tuple[int, ...]] = {}
        self.rss, self.accessed, self.dirty, self.huge, self.zero, self.special, self.swapped = (
            [0] * len(table) for _ in range(7)
        )
        self._huge_zero = HugeZeroPage()
        self.unmatched_bytes = 0
        self.unsettled_bytes = 0

    @property
    def notes(self) -> list[str]:
        """What could not be told apart."""
        return self._huge_zero.notes

    def add(self, branch: LastTables | UpperTable) -> None:
        """Count what a `BranchReader` read together, `FEW_PAGES` at a call."""
        if isinstance(branch, LastTables):
            self._add_last(branch.addresses, branch.pages)
        else:
            self._add_upper(branch.entry_bytes, branch.address, memoryview(branch.page).cast("Q").tolist())

    def _add_last(self, addresses: list[int], pages: memoryview) -> None:
        row = bisect_right(self._ends, addresses[0])
        first = 0
        for nth, address in enumerate([*addresses[1:], 0], 1):
            if address != addresses[nth - 1] + HUGE_PAGE_BYTES:
                row = self._add_run(row, addresses[first], bytes(pages[first * PAGE_BYTES : nth * PAGE_BYTES]))
                first = nth

    def _add_run(self, row: int, address: int, tables: bytes) -> int:
        """Count tables that follow each other, mapping by mapping from `row` on; the row to go on with."""
        starts, ends = self._starts, self._ends
        behind, last = address + len(tables) // _ENTRY_BYTES * PAGE_BYTES, len(starts)
        while row < last and ends[row] <= address:
            row += 1
        if (
            row < last
            and starts[row] <= address
            and behind <= ends[row]
            and ((accessed := _accessed_if_written(tables)) is not None)
        ):
            self.rss[row] += behind - address
            self.dirty[row] += behind - address
            self.accessed[row] += accessed * PAGE_BYTES
            return row
        classes = _classes(tables)
        there = 0
        while row < last and starts[row] < behind:
            first = max(0, starts[row] - address) // PAGE_BYTES
            upto = (min(behind, ends[row]) - address) // PAGE_BYTES
            there += self._add_stretch(row, classes[first:upto], tables, first)
            if ends[row] >= behind:
                break
            row += 1
        self.unmatched_bytes += sum(self._count(classes)[:2]) * PAGE_BYTES - there
        return row

    def _add_stretch(self, row: int, classes: bytes, tables: bytes, first: int) -> int:
        """Count entries from `first` on that lie in one mapping; bytes that are there."""
        rss, special, accessed, dirty, swapped = self._count(classes)
        if rss:
            self.rss[row] += rss * PAGE_BYTES
            self.accessed[row] += accessed * PAGE_BYTES
            self.dirty[row] += dirty * PAGE_BYTES
        if swapped:
            self.swapped[row] += swapped * PAGE_BYTES
        if special:
            entries = memoryview(tables).cast("Q")[first:]
            zero = sum(
                kind == _SPECIAL and abi.frame_of(entry) == self._zero_frame
                for kind, entry in zip(classes, entries, strict=False)
            )
            self.zero[row] += zero * PAGE_BYTES
            self.special[row] += (special - zero) * PAGE_BYTES
        return (rss + special) * PAGE_BYTES

    def _count(self, classes: bytes) -> tuple[int, ...]:
        """How many entries are resident, special, accessed, dirty, swapped."""
        if len(classes) > _SHORT:
            return _counted(classes)
        counted = self._known.get(classes)
        if counted is None:
            counted = self._known[classes] = _counted(classes)
        return counted

    def _add_upper(self, size: int, first: int, entries: list[int]) -> None:
        for place, entry in enumerate(entries):
            if not entry or leads_to_table(entry):
                continue
            address = first + place * size
            row = bisect_right(self._ends, address)
            inside = row < len(self._ends) and self._starts[row] <= address and address + size <= self._ends[row]
            if not entry & (abi.PRESENT | abi.PROT_NONE | abi.HUGE):
                if inside and entry >> abi.KIND_SHIFT < abi.LEAST_SWAP_KINDS:
                    self.swapped[row] += size
            elif not inside:
                self.unmatched_bytes += size
            elif self._huge_zero.is_mapped_by(entry):
                self.zero[row] += size
            elif entry & abi.SPECIAL:
                self.special[row] += size
            else:
                self.rss[row] += size
                self.huge[row] += size
                self.accessed[row] += size if entry & abi.ACCESSED else 0
                self.dirty[row] += size if entry & _ANY_DIRTY else 0


_LONGEST = FEW_PAGES * PAGE_BYTES // _ENTRY_BYTES
_EVERY = {
    bit: int.from_bytes(bytes([bit]) * _LONGEST, "little")
    for bit in {_RSS, _ACCESSED, _DIRTY, _SPECIAL, _SWAPPED, abi.PRESENT, abi.ACCESSED, abi.DIRTY, abi.SPECIAL >> 8}
}
"""A bit of every byte in the longest run of tables that a reader gives."""


def _accessed_if_written(tables: bytes) -> int | None:
    """How many entries were accessed, if all are present, dirty, and of frames that count: most of most memory."""
    lowest = tables[0::_ENTRY_BYTES]
    if not lowest[0] & lowest[-1] & abi.PRESENT:
        return None
    number = int.from_bytes(lowest, "little")
    if not (number & _EVERY[abi.PRESENT]).bit_count() == (number & _EVERY[abi.DIRTY]).bit_count() == len(lowest):
        return None
    if int.from_bytes(tables[1::_ENTRY_BYTES], "little") & _EVERY[abi.SPECIAL >> 8]:
        return None
    return (number & _EVERY[abi.ACCESSED]).bit_count()


def _counted(classes: bytes) -> tuple[int, ...]:
    """How many are resident, special, accessed, dirty, swapped."""
    number = int.from_bytes(classes, "little")
    return tuple((number & _EVERY[kind]).bit_count() for kind in (_RSS, _SPECIAL, _ACCESSED, _DIRTY, _SWAPPED))


def _classes(tables: bytes) -> bytes:
    """What every entry is, a byte for each."""
    flags = (
        int.from_bytes(tables[0::_ENTRY_BYTES].translate(_LOWEST), "little")
        | int.from_bytes(tables[1::_ENTRY_BYTES].translate(_SECOND), "little")
        | int.from_bytes(tables[7::_ENTRY_BYTES].translate(_HIGHEST), "little")
    )
    return flags.to_bytes(len(tables) // _ENTRY_BYTES, "little").translate(_CLASSES)
