"""Who shares which frame with whom: page-table entries of all processes in, RSS, USS and PSS of each out.

A frame is mapped as often as it stands in the tables: twice by one process is twice, as the kernel counts it, too. USS
is the frames that are mapped once (Private_Clean and Private_Dirty of smaps), PSS is each frame's size divided by how
often it is mapped, in the kernel's fixed point, so that the sums are its sums.

Outside of RSS, and so of these: the zero page, pages that are mapped by number, and hugetlb pages.

Frames are counted in an array over stretches of physical memory, one at a time: how much of it there is, and where,
does not matter.

Kernel:
    fs/proc/task_mmu.c smaps_account(), smaps_page_accumulate(). For a part of a large folio a kernel with
    CONFIG_NO_PAGE_MAPCOUNT (6.15 on) takes the average over the folio there; here it is exact.
"""

from __future__ import annotations

from dontneed.abi import page_entry as abi
from dontneed.abi.kpageflags import HUGE, NOPAGE, ZERO_PAGE
from dontneed.errors import KernelLacks, NotPermitted
from dontneed.kernel.kpage import read_frame_flags
from dontneed.observe.tables.entries import frames_of, names_swap
from dontneed.records import Record
from dontneed.units import PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Any

    from dontneed.kernel.pagemap import Words
    from dontneed.observe.tables.reader import Tables

_IN_A_TABLE = 1 << abi.LEVEL_BITS
_STRETCH_SHIFT = 23
"""Frames that are counted in one go, 32 GiB of memory: an array of at most 64 MiB."""
_PSS_SHIFT = 12
"""fs/proc/task_mmu.c: parts of a byte."""
_WHOLE = PAGE_BYTES << _PSS_SHIFT
_NOT_RESIDENT = HUGE | NOPAGE | ZERO_PAGE


class Shares(Record):
    """Bytes by owner: int64 arrays.

    Attributes:
        rss: what each maps.
        uss: of that, what is mapped nowhere else.
        pss: of that, its share, where what is mapped n times counts for 1/n.
        swapped: what its tables have in swap.
    """

    rss: Any
    uss: Any
    pss: Any
    swapped: Any


class FrameShares:
    """Collects the frames of all, and says then what the share of each is.

    Attributes:
        gone: numbers of owners that are in no sum.
        notes: what could not be told apart, in sentences.
    """

    def __init__(self) -> None:
        self.gone: set[int] = set()
        self.notes: list[str] = []
        self._frames: list[Any] = [_narrow(_nothing())]
        self._lengths: list[Any] = [_nothing()]  # of runs of frames that one owner has
        self._owners: list[Any] = [_nothing()]
        self._blocks: list[Any] = [_narrow(_nothing())]
        self._block_owners: list[Any] = [_nothing()]
        self._swapped: list[Any] = [_nothing()]

    def add(self, tables: Tables, *, first_owner: int = 0, may_have_hugetlb: Collection[int] = ()) -> None:
        """Collect from tables as a `TableReader` gives them.

        Args:
            tables: of one level.
            first_owner: added to the number of each owner.
            may_have_hugetlb: numbers of owners with hugetlb pages, before that is added.
        """
        if tables.level:
            self._add_blocks(tables, first_owner, may_have_hugetlb)
        else:
            self._add_pages(tables, first_owner)

    def forget(self, owners: Collection[int]) -> None:
        """Whatever these were said to have: it cannot be believed."""
        self.gone.update(owners)

    def of(self, owners: int) -> Shares:
        """The shares of as many owners."""
        import numpy as np

        frames, lengths, of_runs = map(np.concatenate, (self._frames, self._lengths, self._owners))
        blocks, of_blocks = np.concatenate(self._blocks), np.concatenate(self._block_owners)
        if self.gone:
            left = np.isin(of_runs, list(self.gone), invert=True)
            frames, lengths, of_runs = frames[np.repeat(left, lengths)], lengths[left], of_runs[left]
            left = np.isin(of_blocks, list(self.gone), invert=True)
            blocks, of_blocks = blocks[left], of_blocks[left]
        share, block_uss, block_pss = _divided(frames, blocks)
        starts = np.cumsum(lengths) - lengths
        in_blocks = np.full(len(blocks), _IN_A_TABLE)
        by_run = (lengths, _by_run(share == _WHOLE, starts), _by_run(share, starts))
        rss, uss, pss = (
            _sum_by(of_runs, runs, owners) + _sum_by(of_blocks, others, owners)
            for runs, others in zip(by_run, (in_blocks, block_uss, block_pss), strict=True)
        )
        swapped = np.bincount(np.concatenate(self._swapped), minlength=owners)
        return Shares(rss * PAGE_BYTES, uss * PAGE_BYTES, pss >> _PSS_SHIFT, swapped * PAGE_BYTES)

    def _add_pages(self, tables: Tables, first_owner: int) -> None:
        """Last-level tables."""
        import numpy as np

        entries = tables.entries.reshape(-1)
        places = np.flatnonzero(entries)
        entries = entries[places]
        owners = tables.owners + first_owner
        plain = entries & np.uint64(abi.PRESENT | abi.SPECIAL) == np.uint64(abi.PRESENT)
        if not plain.all():
            self._swapped.append(owners[places[_are_swapped(entries)] // _IN_A_TABLE])
            plain |= entries & np.uint64(abi.PRESENT | abi.PROT_NONE | abi.SPECIAL) == np.uint64(abi.PROT_NONE)
            entries, places = entries[plain], places[plain]
        edges = np.searchsorted(places, np.arange(len(owners) + 1) * _IN_A_TABLE)
        lengths = np.diff(edges)
        self._frames.append(_narrow(frames_of(entries)))
        self._lengths.append(lengths[lengths > 0])
        self._owners.append(owners[lengths > 0])

    def _add_blocks(self, tables: Tables, first_owner: int, may_have_hugetlb: Collection[int]) -> None:
        """Upper tables: what they map themselves, in blocks of as many frames as a table has entries."""
        import numpy as np

        rows, columns = tables.entries.nonzero()
        entries, owners = tables.entries[rows, columns], tables.owners[rows]
        present = entries & np.uint64(abi.PRESENT | abi.PROT_NONE | abi.HUGE) != 0
        present &= entries & np.uint64(abi.SPECIAL) == 0
        entries, owners = entries[present], owners[present]
        blocks = frames_of(entries) >> np.uint64(abi.LEVEL_BITS)
        doubtful = entries & np.uint64(abi.WRITABLE | abi.DIRTY | abi.SAVED_DIRTY) == 0  # it may be the huge zero page
        doubtful |= np.isin(owners, list(may_have_hugetlb))
        resident = ~doubtful | self._are_resident(blocks, doubtful)
        blocks, owners = blocks[resident], (owners[resident] + first_owner)
        each = tables.page_bytes // PAGE_BYTES // _IN_A_TABLE
        if each > 1:
            blocks = (blocks[:, None] + np.arange(each, dtype=np.uint64)).reshape(-1)
            owners = np.repeat(owners, each)
        self._blocks.append(_narrow(blocks))
        self._block_owners.append(owners)

    def _are_resident(self, blocks: Words, doubtful: Any) -> Any:
        """Which of the doubtful ones are memory that counts as resident, by what the kernel says of their frames."""
        import numpy as np

        found = np.zeros(len(blocks), np.bool_)
        if not doubtful.any():
            return found
        unique, where = np.unique(blocks[doubtful], return_inverse=True)
        try:
            flags = read_frame_flags(unique << np.uint64(abi.LEVEL_BITS))
        except (NotPermitted, KernelLacks) as error:
            self.notes.append(f"hugetlb pages and huge zero pages count as resident: {error.in_words}")
            return doubtful
        found[doubtful] = (flags & np.uint64(_NOT_RESIDENT) == 0)[where]
        return found


def _are_swapped(entries: Words) -> Any:
    """Which entries name a slot in swap."""
    import numpy as np

    absent = entries & np.uint64(abi.PRESENT | abi.PROT_NONE) == 0
    return absent & names_swap(entries)


def _narrow(numbers: Any) -> Any:
    """Numbers in four bytes each, as far as they fit: of 16 TiB of memory they do."""
    import numpy as np

    return numbers.astype(np.uint32) if not len(numbers) or int(numbers.max()) >> 32 == 0 else numbers


def _divided(frames: Any, blocks: Any) -> tuple[Any, Any, Any]:
    """The share of each frame, in parts of a byte; of each block, how many frames nobody else has, and its share."""
    import numpy as np

    share = np.zeros(len(frames), np.uint32)
    block_uss, block_pss = np.zeros(len(blocks), np.int64), np.zeros(len(blocks), np.int64)
    block_shift = _STRETCH_SHIFT - abi.LEVEL_BITS
    stretch, block_stretch = frames >> _STRETCH_SHIFT, blocks >> block_shift
    numbers = _distinct(stretch, block_stretch)
    for number in numbers:
        here, blocks_here = stretch == number, block_stretch == number
        if len(numbers) == 1:  # where all are chosen, choosing would take as long as counting
            here = blocks_here = slice(None)
        places = frames[here].astype(np.int64) - (number << _STRETCH_SHIFT)
        block_places = blocks[blocks_here].astype(np.int64) - (number << block_shift)
        last = max(places.max(initial=0) // _IN_A_TABLE, block_places.max(initial=0))
        counts = np.bincount(places, minlength=(int(last) + 1) * _IN_A_TABLE)
        block_uss[blocks_here], block_pss[blocks_here] = _divide_blocks(counts, block_places)
        times = counts[places]
        shares = _WHOLE // np.maximum(np.arange(int(times.max(initial=0)) + 1), 1)
        share[here] = shares.astype(np.uint32)[times]
    return share, block_uss, block_pss


def _distinct(*numbers: Any) -> list[int]:
    """The numbers there are, of many that are alike and none that is large."""
    import numpy as np

    last = max(int(each.max(initial=0)) for each in numbers)
    if not last:
        return [0]
    there = np.zeros(last + 1, np.bool_)
    for each in numbers:
        there[each] = True
    found: list[int] = np.flatnonzero(there).tolist()
    return found


def _divide_blocks(counts: Any, blocks: Any) -> tuple[Any, Any]:
    """How many frames of each block nobody else has, and its share.

    Args:
        counts: how often each frame is mapped by itself; where it is mapped by a block too, that is added.
        blocks: one for each time that it is mapped.
    """
    import numpy as np

    by_block = counts.reshape(-1, _IN_A_TABLE)
    unique, where, times = np.unique(blocks, return_inverse=True, return_counts=True)
    uss, pss = (times == 1) * _IN_A_TABLE, _WHOLE // times * _IN_A_TABLE
    mixed = by_block[unique].any(axis=1)
    if mixed.any():
        by_block[unique[mixed]] += times[mixed, None]
        together = by_block[unique[mixed]]
        uss[mixed], pss[mixed] = (together == 1).sum(axis=1), (_WHOLE // together).sum(axis=1)
    return uss[where], pss[where]


def _by_run(amounts: Any, starts: Any) -> Any:
    """The sum of each run."""
    import numpy as np

    return np.add.reduceat(amounts, starts, dtype=np.int64) if len(starts) else _nothing()


def _sum_by(whose: Any, amounts: Any, owners: int) -> Any:
    """The sum of each owner, exactly: a float has every integer up to 2^53, and that many parts of a byte are 2 TiB."""
    import numpy as np

    return np.bincount(whose, amounts, minlength=owners).astype(np.int64)


def _nothing() -> Any:
    import numpy as np

    return np.zeros(0, np.int64)
