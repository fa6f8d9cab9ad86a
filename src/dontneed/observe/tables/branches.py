"""All page tables of one process, read branch by branch: an upper table, and at one call the tables right below it.

# Why a table that was read can be believed

No lock is held: while we read, the process maps, unmaps, ends, and a table may be given back and hold something else
when its turn comes. So every call that reads tables reads, behind them and in this order, the table that leads to them,
those above it up to the uppermost one, and the words of the task that change when the process ends or replaces its
program. A table counts only if all that leads to it is then as it was when its address was found: it was in its place
before and after it was read. What was moved is looked for again, from the top, in a few rounds; what does not come to
rest is told (`unsettled`), and that the process has gone is too (`gone`).

An entry is 64 bits and read in one piece. Entries are of different moments, as those of any walk are.

# How to use it

    reader = BranchReader(memory, memory.task(process))
    for branch in reader:
        if isinstance(branch, LastTables): ...   # pages of 512 entries each, valid until the next step
        else: ...                                # an UpperTable: what maps huge pages, and their swap
    if reader.gone: ...                          # forget all of these
"""

from __future__ import annotations

from itertools import compress

from dontneed.abi.page_entry import FRAME_MASK, HUGE, LEVEL_BITS, POINTER, PRESENT
from dontneed.abi.pagemap import ENTRY_BYTES
from dontneed.kernel.kernel_memory import FEW_PAGES, TABLE_ENTRIES
from dontneed.records import Record
from dontneed.units import PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from dontneed.kernel.kernel_memory import KernelMemory
    from dontneed.kernel.tasks import Task

    Wanted = list[tuple[int, int]] | None
    """Ranges of addresses; None: all of them."""

_ROUNDS = 6
_USER_HALF_BYTES = PAGE_BYTES // 2


class LastTables(Record):
    """Last-level tables that were read together.

    Attributes:
        addresses: what the first entry of each maps; each covers 512 pages.
        pages: their entries, a page for each; the next step writes over them.
    """

    addresses: list[int]
    pages: memoryview


class UpperTable(Record):
    """A table above the last ones that has entries which lead to no table: huge pages, and what is not present.

    Attributes:
        entry_bytes: what an entry maps.
        address: what the first entry maps.
        page: its entries. Those that lead to tables (`leads_to_table`) are nobody's pages.
    """

    entry_bytes: int
    address: int
    page: bytes


class _Table(Record):
    """An upper table as it was read.

    Attributes:
        place: where the kernel sees it.
        address: what its first entry maps.
        entry: the place of the entry that leads to it, in the table above.
        pointer: that entry, as far as it says where.
        page: its contents.
    """

    place: int
    address: int
    entry: int
    pointer: int
    page: bytes


class BranchReader:
    """Reads the tables of one process; iterating does it, once.

    Args:
        memory: the way to the kernel's memory; nobody else uses it meanwhile.
        task: whose tables.
        most_pages: to read at one call, as `KernelMemory.read` allows; many take a program that is loaded once.

    Attributes:
        gone: it ended or replaced its program: nothing of it is to be believed.
        unsettled: (start, end) of addresses whose tables did not come to rest; none of theirs were given.
    """

    def __init__(self, memory: KernelMemory, task: Task, most_pages: int = FEW_PAGES) -> None:
        self._memory = memory
        self._task = task
        self._watched = list(dict.fromkeys(address & -PAGE_BYTES for address in task.watched))
        self._room = min(TABLE_ENTRIES, most_pages - memory.levels - len(self._watched))
        self.gone = False
        self.unsettled: list[tuple[int, int]] = []

    def __iter__(self) -> Iterator[LastTables | UpperTable]:
        wanted: Wanted = None
        for _ in range(_ROUNDS):
            self.unsettled = []
            root = self._root()
            if root is not None:
                yield from self._below([root], self._memory.levels - 1, wanted)
            if self.gone or not self.unsettled:
                return
            wanted = self.unsettled

    def _root(self) -> _Table | None:
        """The uppermost table; None if the process has gone."""
        if self._memory.read([self._task.root, *self._watched]) or not self._is_alive(1):
            self.gone = True
            return None
        return _Table(self._task.root, 0, 0, 0, bytes(self._memory.pages(0, 1)[:_USER_HALF_BYTES]))

    def _below(self, path: list[_Table], level: int, wanted: Wanted) -> Iterator[LastTables | UpperTable]:
        """What the last table of a path, which is one of `level`, leads to; everything, or what is wanted."""
        size = PAGE_BYTES << LEVEL_BITS * level
        tables = _tables_of(path[-1], size, wanted)
        others = _others_of(path[-1], size, len(tables), wanted)
        if others is not None and level < self._memory.levels - 1:
            yield others
        for first in range(0, len(tables), self._room):
            chosen = tables[first : first + self._room]
            moved = self._read(path, chosen)
            if moved is None:
                return
            addresses = [path[-1].address + place * size for place, _ in chosen]
            self.unsettled += [(addresses[nth], addresses[nth] + size) for nth in moved]
            if level == 1:
                yield from self._last_tables(addresses, moved)
                continue
            for table in self._upper_tables(chosen, addresses, moved):
                yield from self._below([*path, table], level - 1, wanted)
                if self.gone:
                    return

    def _upper_tables(self, chosen: list[tuple[int, int]], addresses: list[int], moved: list[int]) -> list[_Table]:
        """Copies of the tables that were read, without those that moved."""
        return [
            _Table(self._place(entry), address, place, entry & POINTER, bytes(self._memory.pages(nth, nth + 1)))
            for nth, ((place, entry), address) in enumerate(zip(chosen, addresses, strict=True))
            if nth not in moved
        ]

    def _last_tables(self, addresses: list[int], moved: list[int]) -> Iterator[LastTables]:
        """Stretches of the tables that were read, without those that moved."""
        first = 0
        for nth in [*moved, len(addresses)]:
            if first < nth:
                yield LastTables(addresses[first:nth], self._memory.pages(first, nth))
            first = nth + 1

    def _read(self, path: list[_Table], chosen: list[tuple[int, int]]) -> list[int] | None:
        """Read tables and what leads to them; the places of those that moved meanwhile. None: the process has gone."""
        memory, base, upper = self._memory, self._memory.base, path[-1].page
        tables = [base + (entry & FRAME_MASK) for _, entry in chosen]
        failed = memory.read([*tables, *(table.place for table in reversed(path)), *self._watched])
        count = len(chosen)
        behind = count + len(path)
        if any(place >= behind for place in failed) or not self._is_alive(behind):
            self.gone = True
            return None
        if any(place >= count for place in failed) or not self._led_here(path, behind):
            return list(range(count))
        if not failed and memory.pages(count, count + 1)[: len(upper)] == upper:
            return []
        return [
            nth
            for nth, (place, entry) in enumerate(chosen)
            if nth in failed or (memory.word(count, place * ENTRY_BYTES) ^ entry) & POINTER
        ]

    def _led_here(self, path: list[_Table], behind: int) -> bool:
        """Whether each table of a path still leads to the next; they were read in front of place `behind`."""
        return all(
            self._memory.word(behind - depth, table.entry * ENTRY_BYTES) & POINTER == table.pointer
            for depth, table in enumerate(path[1:], 1)
        )

    def _place(self, entry: int) -> int:
        return self._memory.base + (entry & FRAME_MASK)

    def _is_alive(self, first: int) -> bool:
        """Whether the process is still what it was, by the pages from place `first` on."""
        return all(
            self._memory.word(first + self._watched.index(address & -PAGE_BYTES), address) == value
            for address, value in zip(self._task.watched, self._task.values, strict=True)
        )


def leads_to_table(entry: int) -> bool:
    """Whether an entry of an upper table is the address of another table."""
    return entry & (PRESENT | HUGE) == PRESENT


_LEADS_TO_TABLE = bytes(map(leads_to_table, range(1 << 8)))
"""By the lowest byte of an entry."""


def _tables_of(upper: _Table, size: int, wanted: Wanted) -> list[tuple[int, int]]:
    """The entries of a table that lead to tables, with their places."""
    marks = upper.page[::ENTRY_BYTES].translate(_LEADS_TO_TABLE)
    tables = list(compress(enumerate(memoryview(upper.page).cast("Q").tolist()), marks))
    if wanted is None:
        return tables
    return [each for each in tables if _touches(upper.address + each[0] * size, size, wanted)]


def _others_of(upper: _Table, size: int, tables: int, wanted: Wanted) -> UpperTable | None:
    """A table that has other entries than those that lead to tables; without those that are not wanted.

    Args:
        upper: the table.
        size: what an entry maps.
        tables: how many of its entries lead to tables.
        wanted: which of them are wanted.
    """
    page = upper.page
    if wanted is not None:
        page = b"".join(
            page[place : place + ENTRY_BYTES]
            if _touches(upper.address + place // ENTRY_BYTES * size, size, wanted)
            else bytes(ENTRY_BYTES)
            for place in range(0, len(page), ENTRY_BYTES)
        )
    entries = memoryview(page).cast("Q").tolist()
    return UpperTable(size, upper.address, page) if len(entries) - entries.count(0) > tables else None


def _touches(address: int, size: int, wanted: list[tuple[int, int]]) -> bool:
    return any(start < address + size and address < end for start, end in wanted)
