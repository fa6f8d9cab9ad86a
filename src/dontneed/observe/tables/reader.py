"""All page tables of many processes, read from the kernel's memory in batches, level by level.

With a call for the tables of many processes, some hundred small ones take half the time that `branches` takes for one
after the other. A table is believed for the reasons that are told there: each call reads, behind the tables, all that
leads to them, and the words of each task that tell that it is still there. What was moved is looked for again, from the
top, in a few rounds; what does not come to rest is told (`unsettled`), and a process that has gone is too (`gone`).

# How to use it

    reader = TableReader(memory, [memory.task(process)])
    for tables in reader:                    # last-level tables and what maps huge pages, level by level
        tables.entries                       # (n, 512) uint64, valid until the next step
    if reader.gone: ...                      # forget all of these: see `TableReader`
"""

from __future__ import annotations

from dontneed.abi.page_entry import FRAME_MASK, HUGE, LEVEL_BITS, POINTER, PRESENT
from dontneed.kernel.kernel_memory import PAGES_A_CALL, TABLE_ENTRIES
from dontneed.records import Record
from dontneed.units import PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from dontneed.kernel.kernel_memory import KernelMemory
    from dontneed.kernel.pagemap import Words
    from dontneed.kernel.tasks import Task

_ROUNDS = 6
_MANY = 1000
"""Tables a call, where those above them are few."""


class Tables(Record):
    """Page tables of one level that were read together.

    Attributes:
        level: 0: last-level tables (PTE). 1, 2: those above, of which only entries that are no table's are kept: huge
            pages, and what is not present.
        page_bytes: what an entry maps.
        owners: whose, by its place among the tasks; one a table.
        addresses: what the first entry of each table maps.
        entries: a row of 512 for each; the next step writes over them.
    """

    level: int
    page_bytes: int
    owners: Any
    addresses: Words
    entries: Words


class _Nodes(Record):
    """Tables of one level, to be read.

    Attributes:
        owners, addresses: as those of `Tables`.
        places: where the kernel sees them.
        parents: which table of the level above leads to each; ascending.
        pointers: by what entry, as far as it says where.
    """

    owners: Any
    addresses: Words
    places: Words
    parents: Any
    pointers: Words

    def __len__(self) -> int:
        return len(self.places)

    def part(self, which: Any) -> _Nodes:
        """Some of them."""
        return _Nodes(*(column[which] for column in self.as_dict().values()))


class TableReader:
    """Reads the tables of processes; iterating does it, once.

    Args:
        memory: the way to the kernel's memory; nobody else uses it meanwhile.
        tasks: whose tables.

    Attributes:
        gone: places among the tasks of those that ended or replaced their program: nothing of theirs is to be believed.
        unsettled: (owner, start, end) of addresses whose tables did not come to rest; none of theirs were given.
    """

    def __init__(self, memory: KernelMemory, tasks: Sequence[Task]) -> None:
        self._memory = memory
        self._tasks = tasks
        self.gone: set[int] = set()
        self.unsettled: list[tuple[int, int, int]] = []

    def __iter__(self) -> Iterator[Tables]:
        wanted: list[tuple[int, int, int]] | None = None
        for _ in range(_ROUNDS):
            self.unsettled = []
            yield from self._round(wanted)
            wanted = [each for each in self.unsettled if each[0] not in self.gone]
            if not wanted:
                break
        self.unsettled = wanted or []

    def _round(self, wanted: list[tuple[int, int, int]] | None) -> Iterator[Tables]:
        """From the top down, everything or what is wanted."""
        path = [self._roots(wanted)]
        for level in range(self._memory.levels - 1, -1, -1):
            below = []
            for first, last in self._batches(path):
                entries, settled = self._read(path, level, first, last)
                part = path[-1].part(slice(first, last))
                if not settled.all():
                    self._note(part.part(~settled), level)
                    part, entries = part.part(settled), entries[settled]
                    parents = first + settled.nonzero()[0]
                else:
                    parents = range(first, last)
                if not level:
                    yield Tables(0, PAGE_BYTES, part.owners, part.addresses, entries)
                    continue
                nodes, others = self._below(part, entries, level, parents)
                below.append(_overlapping(nodes, wanted, _bytes(level)))
                if others is not None and (others := _cut(others, wanted)) is not None:
                    yield others
            if not level:
                return
            joined = _joined(below)
            if joined is None:
                return
            path.append(joined)

    def _roots(self, wanted: list[tuple[int, int, int]] | None) -> _Nodes:
        import numpy as np

        numbers = range(len(self._tasks)) if wanted is None else sorted({owner for owner, _, _ in wanted})
        owners = np.array([number for number in numbers if number not in self.gone], np.int64)
        zeros = np.zeros(len(owners), np.uint64)
        roots = np.array([self._tasks[owner].root for owner in owners], np.uint64)
        return _Nodes(owners, zeros, roots, np.zeros(len(owners), np.int64), zeros)

    def _batches(self, path: list[_Nodes]) -> Iterator[tuple[int, int]]:
        """Stretches of the lowest level that fit into a call together with all that is above them."""
        first, total = 0, len(path[-1])
        while first < total:
            last = min(first + _MANY, total)
            while last - first > 1 and self._pages_for(path, first, last) > PAGES_A_CALL:
                last = first + (last - first) // 2
            yield first, last
            first = last

    def _pages_for(self, path: list[_Nodes], first: int, last: int) -> int:
        chain = _chain(path, first, last)
        return sum(map(len, chain)) + len(self._watched_pages(path[0], chain[-1]))

    def _watched_pages(self, roots: _Nodes, which: Any) -> Words:
        import numpy as np

        words = [address for owner in roots.owners[which] for address in self._tasks[owner].watched]
        return np.unique(np.array(words, np.uint64) & np.uint64(-PAGE_BYTES & (1 << 64) - 1))

    def _read(self, path: list[_Nodes], level: int, first: int, last: int) -> tuple[Words, Any]:
        """Some tables of the lowest level, and which of them were in their place all the while."""
        import numpy as np

        chain = _chain(path, first, last)
        watched = self._watched_pages(path[0], chain[-1])
        nodes = list(reversed(path))
        places = [each.places[which] for each, which in zip(nodes, chain, strict=True)]
        pages, failed = self._memory.read_array(np.concatenate([*places, watched]))
        ends = np.cumsum([0, *map(len, places), len(watched)])
        good = self._alive(nodes[-1].owners[chain[-1]], watched, pages[ends[-2] : ends[-1]])
        good &= failed[ends[-3] : ends[-2]] == 0
        for above in range(len(chain) - 1, 0, -1):  # from the top down
            which = chain[above - 1]
            child = nodes[above - 1].part(which)
            rows = np.searchsorted(chain[above], child.parents)
            shift = np.uint64(12 + LEVEL_BITS * (level + above))
            columns = (child.addresses >> shift & np.uint64(TABLE_ENTRIES - 1)).astype(np.int64)
            found = pages[ends[above] : ends[above + 1]][rows, columns] & np.uint64(POINTER)
            begin = ends[above - 1]
            good = good[rows] & (found == child.pointers) & (failed[begin : begin + len(which)] == 0)
        return pages[: last - first], good

    def _alive(self, owners: Any, watched: Words, pages: Words) -> Any:
        """Which processes are still what they were; the others are noted as gone."""
        import numpy as np

        alive = np.ones(len(owners), np.bool_)
        for nth, owner in enumerate(owners):
            task = self._tasks[owner]
            words = np.array(task.watched, np.uint64)
            rows = np.searchsorted(watched, words & np.uint64(-PAGE_BYTES & (1 << 64) - 1))
            found = pages[rows, (words % np.uint64(PAGE_BYTES) // np.uint64(8)).astype(np.int64)]
            if found.tolist() != list(task.values):
                alive[nth] = False
                self.gone.add(int(owner))
        return alive

    def _note(self, nodes: _Nodes, level: int) -> None:
        """Tables that were not in their place, to be looked for again."""
        size = _bytes(level + 1)
        for owner, address in zip(nodes.owners.tolist(), nodes.addresses.tolist(), strict=True):
            self.unsettled.append((owner, address, address + size))

    def _below(self, part: _Nodes, entries: Words, level: int, parents: Any) -> tuple[_Nodes, Tables | None]:
        """What tables lead to: the tables below, and the other entries if there are any."""
        import numpy as np

        if level == self._memory.levels - 1:
            entries = entries[:, : TABLE_ENTRIES // 2]  # the other half is the kernel's
        is_table = entries & np.uint64(PRESENT | HUGE) == np.uint64(PRESENT)
        rows, columns = is_table.nonzero()
        pointers = entries[rows, columns] & np.uint64(POINTER)
        addresses = part.addresses[rows] + (columns.astype(np.uint64) << np.uint64(12 + LEVEL_BITS * level))
        places = np.uint64(self._memory.base) + (pointers & np.uint64(FRAME_MASK))
        nodes = _Nodes(part.owners[rows], addresses, places, np.asarray(parents, np.int64)[rows], pointers)
        others = np.where(is_table, np.uint64(0), entries)
        kept = others.any(axis=1)
        if level == self._memory.levels - 1 or not kept.any():
            return nodes, None
        return nodes, Tables(level, _bytes(level), part.owners[kept], part.addresses[kept], others[kept])


def _bytes(level: int) -> int:
    """What an entry of a table of `level` maps, or all of a table below it."""
    return PAGE_BYTES << LEVEL_BITS * level


def _chain(path: list[_Nodes], first: int, last: int) -> list[Any]:
    """Which tables of each level a stretch of the lowest takes, from there up."""
    import numpy as np

    chain: list[Any] = [np.arange(first, last)]
    for nodes in reversed(path[1:]):
        parents = nodes.parents[chain[-1]]
        chain.append(parents[np.flatnonzero(np.diff(parents, prepend=-1))])
    return chain


def _joined(parts: list[_Nodes]) -> _Nodes | None:
    import numpy as np

    parts = [part for part in parts if len(part)]
    if not parts:
        return None
    columns = zip(*(part.as_dict().values() for part in parts), strict=True)
    return _Nodes(*(np.concatenate(column) for column in columns))


def _overlapping(nodes: _Nodes, wanted: list[tuple[int, int, int]] | None, size: int) -> _Nodes:
    """The tables that have to do with what is wanted."""
    return nodes if wanted is None else nodes.part(_touched(nodes.owners, nodes.addresses, wanted, size))


def _cut(tables: Tables, wanted: list[tuple[int, int, int]] | None) -> Tables | None:
    """Tables without the entries that were given in an earlier round."""
    import numpy as np

    if wanted is None:
        return tables
    offsets = np.arange(tables.entries.shape[1], dtype=np.uint64) * np.uint64(tables.page_bytes)
    addresses = tables.addresses[:, None] + offsets
    touched = _touched(tables.owners[:, None], addresses, wanted, tables.page_bytes)
    entries = np.where(touched, tables.entries, np.uint64(0))
    return tables.replace(entries=entries) if entries.any() else None


def _touched(owners: Any, addresses: Words, wanted: list[tuple[int, int, int]], size: int) -> Any:
    """Which stretches of `size` bytes overlap with what is wanted of their owner."""
    import numpy as np

    touched = np.zeros(addresses.shape, np.bool_)
    for owner, start, end in wanted:
        touched |= (owners == owner) & (addresses < np.uint64(end)) & (addresses + np.uint64(size) > np.uint64(start))
    return touched
